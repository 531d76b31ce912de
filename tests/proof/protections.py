"""What protects from each fault, as edits that take the protection away, and the tests that must then fail.

Data alone; `prove` applies it. A fault whose protection has layers has an edit for each: removed together.
"""

from dataclasses import dataclass

_CRASH = "tests/control_plane/test_faults_crash.py"
_ORDER = "tests/control_plane/test_faults_order.py"
_OPERATOR = "operator/finetune_operator"


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One layer of a protection, and how it is taken away."""

    file: str
    text: str
    """Stands exactly once in the file."""
    replacement: str
    why: str
    """What the text protects from."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault."""

    fault: str
    tests: tuple[str, ...]
    """pytest's node ids; at least one must fail by its own assertion."""
    edits: tuple[Edit, ...]


PROTECTIONS = (
    Row(
        fault="f02",
        tests=(f"{_CRASH}::test_f02_killed_before_the_job_was_posted_there_is_exactly_one_after_the_restart",),
        edits=(
            Edit(
                file=f"{_OPERATOR}/app.py",
                text=("                    await self._list_untouched()\n                await self._list()\n"),
                replacement="                    pass\n",
                why="a start lists what came before it",
            ),
            Edit(
                file=f"{_OPERATOR}/handlers.py",
                text='            self._sink(event["type"], event["object"])\n',
                replacement=(
                    '            if event["type"] is not None:\n'
                    '                self._sink(event["type"], event["object"])\n'
                ),
                why="so does kopf",
            ),
        ),
    ),
    Row(
        fault="f03",
        tests=(f"{_CRASH}::test_f03_killed_between_the_attempt_and_its_job_the_same_name_is_made_once",),
        edits=(
            Edit(
                file=f"{_OPERATOR}/ending.py",
                text='    draft.value["attempt"] = draft.attempt + 1\n',
                replacement='    draft.value["attempt"] = decision.create = draft.attempt + 1\n',
                why="a later pass posts the Job, when the attempt stands in the status",
            ),
        ),
    ),
    Row(
        fault="f05",
        tests=(f"{_CRASH}::test_f05_asked_to_stop_in_a_burst_it_leaves_with_code_0_and_gives_the_lease_up",),
        edits=(
            Edit(
                file=f"{_OPERATOR}/__main__.py",
                text="                await lease.release()\n",
                replacement="                pass\n",
                why="a standby need not wait for the lease's end",
            ),
        ),
    ),
    Row(
        fault="f07",
        tests=(f"{_CRASH}::test_f07_an_operator_that_was_paused_and_lost_its_lease_writes_nothing_more",),
        edits=(
            Edit(
                file=f"{_OPERATOR}/app.py",
                text="            cluster.may_write = lambda: lease.held() or not self._acting.is_set()\n",
                replacement="            pass\n",
                why="no write leaves without the lease",
            ),
            Edit(
                file=f"{_OPERATOR}/app.py",
                text="        return ready and (self._lease is None or self._lease.held())\n",
                replacement="        return ready\n",
                why="no pass begins without the lease",
            ),
        ),
    ),
    Row(
        fault="f19",
        tests=(f"{_ORDER}::test_f19_a_job_name_that_is_taken_is_a_condition_and_the_job_is_never_adopted",),
        edits=(
            Edit(
                file=f"{_OPERATOR}/children.py",
                text='    if controller.get("uid") == view.uid:\n        return\n',
                replacement="    if view.uid:\n        return\n",
                why="a Job is ours when its controller is our FineTuneJob, whatever its name",
            ),
        ),
    ),
)
