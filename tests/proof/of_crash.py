"""FAULTS 1 to 7."""

from proof.row import OPERATOR, Edit, Row

_TESTS = "tests/control_plane/test_faults_crash.py"

_JOBS_ARE_FOUND_AGAIN = (
    Edit(
        file=f"{OPERATOR}/children.py",
        text='            await self.adopt(view, planned.job["metadata"]["name"])\n',
        replacement="            raise\n",
        why="a Job of the attempt's name is asked for and taken when it is ours",
    ),
    Edit(
        file=f"{OPERATOR}/store.py",
        text="            if self.put_job(facts):\n",
        replacement=(
            "            jobs = self._children.get(facts.owner_uid, {})\n"
            "            if facts.name in jobs and self.put_job(facts):\n"
        ),
        why="a list of Jobs tells of those that an earlier process made",
    ),
    Edit(
        file=f"{OPERATOR}/app.py",
        text="        facts = job_facts(body)\n",
        replacement=(
            "        facts = job_facts(body)\n"
            "        if facts.name not in self.store.children(facts.owner_uid):\n"
            "            return\n"
        ),
        why="so does an event of one",
    ),
)

CRASH = (
    Row(
        fault="f01",
        tests=(f"{_TESTS}::test_f01_killed_after_the_job_was_posted_the_job_is_found_by_its_name",),
        edits=_JOBS_ARE_FOUND_AGAIN,
    ),
    Row(
        fault="f02",
        tests=(f"{_TESTS}::test_f02_killed_before_the_job_was_posted_there_is_exactly_one_after_the_restart",),
        edits=(
            Edit(
                file=f"{OPERATOR}/app.py",
                text="                    await self._list_untouched()\n                await self._list()\n",
                replacement="                    pass\n",
                why="a start lists what came before it",
            ),
            Edit(
                file=f"{OPERATOR}/handlers.py",
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
        tests=(f"{_TESTS}::test_f03_killed_between_the_attempt_and_its_job_the_same_name_is_made_once",),
        edits=(
            Edit(
                file=f"{OPERATOR}/ending.py",
                text='    draft.value["attempt"] = draft.attempt + 1\n',
                replacement='    draft.value["attempt"] = decision.create = draft.attempt + 1\n',
                why="a later pass posts the Job, when the attempt stands in the status",
            ),
        ),
    ),
    Row(
        fault="f04",
        tests=(f"{_TESTS}::test_f04_killed_at_every_write_the_end_is_that_of_the_undisturbed_run[finish_well]",),
        edits=_JOBS_ARE_FOUND_AGAIN,
    ),
    Row(
        fault="f05",
        tests=(f"{_TESTS}::test_f05_asked_to_stop_in_a_burst_it_leaves_with_code_0_and_gives_the_lease_up",),
        edits=(
            Edit(
                file=f"{OPERATOR}/__main__.py",
                text="                await lease.release()\n",
                replacement="                pass\n",
                why="a standby need not wait for the lease's end",
            ),
        ),
    ),
    Row(
        fault="f05-code",
        tests=(f"{_TESTS}::test_f05_asked_to_stop_in_a_burst_it_leaves_with_code_0_and_gives_the_lease_up",),
        edits=(
            Edit(
                file=f"{OPERATOR}/__main__.py",
                text="        asyncio.get_running_loop().add_signal_handler(number, stop.set)\n",
                replacement="        del number\n",
                why="a signal is a wish to stop, not an end in the middle of a write",
            ),
        ),
    ),
    Row(
        fault="f06",
        tests=(f"{_TESTS}::test_f06_two_operators_at_once_make_one_gang_per_job_and_agree",),
        edits=(
            Edit(
                file=f"{OPERATOR}/children.py",
                text='            await self.adopt(view, planned.job["metadata"]["name"])\n',
                replacement=(
                    '            planned.job["metadata"]["name"] += "-x"\n'
                    "            made = await self._cluster.create(paths.jobs(namespace), planned.job)\n"
                    "            self._store.put_job(job_facts(made))\n"
                ),
                why="a name that is taken by our own Job means that the attempt has its Job",
            ),
            Edit(
                file=f"{OPERATOR}/lifecycle.py",
                text="    decision.delete = [each for each in others if not each.ended and not each.deleting]\n",
                replacement="    del others\n",
                why="a Job that is not the attempt's own is deleted",
            ),
        ),
    ),
    Row(
        fault="f07",
        tests=(f"{_TESTS}::test_f07_an_operator_that_was_paused_and_lost_its_lease_writes_nothing_more",),
        edits=(
            Edit(
                file=f"{OPERATOR}/app.py",
                text="            cluster.may_write = lambda: lease.held() or not self._acting.is_set()\n",
                replacement="            pass\n",
                why="no write leaves without the lease",
            ),
            Edit(
                file=f"{OPERATOR}/app.py",
                text="        return ready and (self._lease is None or self._lease.held())\n",
                replacement="        return ready\n",
                why="no pass begins without the lease",
            ),
        ),
    ),
)
