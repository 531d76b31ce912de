"""FAULTS 20 to 26."""

from proof.row import OPERATOR, Edit, Row

_TESTS = "tests/control_plane/test_faults_workload.py"

WORKLOAD = (
    Row(
        fault="f20",
        tests=(
            f"{_TESTS}::test_f20_a_job_deleted_before_it_ran_is_made_again_under_its_name_with_an_event",
            f"{_TESTS}::test_f20_a_job_deleted_while_it_ran_is_followed_by_the_next_attempt_with_an_event",
        ),
        edits=(
            Edit(
                file=f"{OPERATOR}/app.py",
                text='self.store.remove_job(facts) if kind == "DELETED" else self.store.put_job(facts)',
                replacement='kind != "DELETED" and self.store.put_job(facts)',
                why="the deletion of a Job brings a pass",
            ),
        ),
    ),
    Row(
        fault="f20-uncounted",
        tests=(f"{_TESTS}::test_f20_a_deletion_by_hand_is_not_the_first_of_two_ends_that_nothing_explains",),
        edits=(
            Edit(
                file=f"{OPERATOR}/lifecycle.py",
                text="Failure.of(Reason.EVICTED, message)",
                replacement="Failure.of(Reason.UNKNOWN, message)",
                why="a deletion by hand has a reason of its own",
            ),
        ),
    ),
    Row(
        fault="f21",
        tests=(
            f"{_TESTS}::test_f21_labels_that_somebody_edits_are_restored_with_an_event",
            f"{_TESTS}::test_f21_labels_that_were_removed_while_the_operator_was_down_are_restored",
        ),
        edits=(
            Edit(
                file=f"{OPERATOR}/living.py",
                text="        decision.relabel = (job, wanted)\n",
                replacement="        pass\n",
                why="labels that are not ours are made so",
            ),
        ),
    ),
    Row(
        fault="f21-spec",
        tests=(
            f"{_TESTS}::test_f21_a_changed_spec_is_told_and_not_fought",
            f"{_TESTS}::test_f21_a_change_that_shapes_no_pod_is_observed_and_not_told",
        ),
        edits=(
            Edit(
                file=f"{OPERATOR}/living.py",
                text='        decision.events.append(("Normal", "SpecChanged", message))\n',
                replacement=(
                    '        decision.events.append(("Normal", "SpecChanged", message))\n'
                    "        decision.delete.append(job)\n"
                ),
                why="pods of an older spec are left alone",
            ),
            Edit(
                file=f"{OPERATOR}/plan/identity.py",
                text=', "restarts"}\n',
                replacement="}\n",
                why="what shapes no pod is no change of them",
            ),
        ),
    ),
    Row(
        fault="f22",
        tests=(
            f"{_TESTS}::test_f22_a_disruption_is_not_counted_and_the_next_attempt_follows",
            f"{_TESTS}::test_f22_a_pod_that_takes_its_time_to_end_tells_why_it_was_disrupted",
        ),
        edits=(
            Edit(
                file=f"{OPERATOR}/ending.py",
                text="_UNCOUNTED = frozenset({Reason.PREEMPTED, Reason.EVICTED})\n",
                replacement="_UNCOUNTED: frozenset[Reason] = frozenset()\n",
                why="what the cluster does to a pod uses no restart",
            ),
        ),
    ),
    Row(
        fault="f23",
        tests=(f"{_TESTS}::test_f23_a_lost_node_gets_no_second_rank_and_the_attempt_is_given_up_after_the_timeout",),
        edits=(
            Edit(
                file=f"{OPERATOR}/living.py",
                text=(
                    "    if view.now < due:\n        decision.wake(due)\n        return decision\n"
                    "    pods = view.pods(job)\n"
                ),
                replacement="    pods = view.pods(job)\n",
                why="pods that may still run are waited for",
            ),
        ),
    ),
    Row(
        fault="f23-forced",
        tests=(f"{_TESTS}::test_f23_a_lost_node_gets_no_second_rank_and_the_attempt_is_given_up_after_the_timeout",),
        edits=(
            Edit(
                file=f"{OPERATOR}/living.py",
                text=(
                    "    if view.now < due:\n        decision.wake(due)\n        return decision\n"
                    "    pods = view.pods(job)\n"
                ),
                replacement=(
                    "    if due:\n        decision.wake(due)\n        return decision\n    pods = view.pods(job)\n"
                ),
                why="the wait for pods of a silent node has an end",
            ),
        ),
    ),
    Row(
        fault="f24",
        tests=(
            f"{_TESTS}::test_f24_an_error_of_the_user_fails_at_once",
            f"{_TESTS}::test_f24_an_error_of_the_infrastructure_is_followed_by_another_attempt_up_to_the_limit",
            f"{_TESTS}::test_f24_memory_that_ran_out_is_followed_by_an_attempt_with_half_the_micro_batch",
        ),
        edits=(
            Edit(
                file=f"{OPERATOR}/ending.py",
                text="    if kind in {Disposition.USER_MUST_FIX, Disposition.LIMIT}:\n",
                replacement="    if kind == Disposition.LIMIT:\n",
                why="what the user has to mend is not tried again",
            ),
            Edit(
                file=f"{OPERATOR}/ending.py",
                text="    if restarts > limit:\n",
                replacement="    if restarts > 10 * limit:\n",
                why="restarts have a limit",
            ),
            Edit(
                file=f"{OPERATOR}/ending.py",
                text="    half = (used + 1) // 2\n",
                replacement="    half = used\n",
                why="memory that ran out halves the micro-batch",
            ),
        ),
    ),
    Row(
        fault="f26",
        tests=(f"{_TESTS}::test_f26_nothing_runs_a_finished_job_again",),
        edits=(
            Edit(
                file=f"{OPERATOR}/lifecycle.py",
                text=('    if decision.draft.holds("Finished"):\n        return _after_the_end(view, decision)\n'),
                replacement="",
                why="the end of a job stands before every other rule",
            ),
        ),
    ),
)
