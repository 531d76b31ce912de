"""FAULTS 14 to 19."""

from proof.row import OPERATOR, Edit, Row

_TESTS = "tests/control_plane/test_faults_order.py"

_ONLY_NEWER = Edit(
    file=f"{OPERATOR}/store.py",
    text=(
        "        if known is not None and known.uid == record.uid and known.version >= record.version:\n"
        "            return False\n"
    ),
    replacement="",
    why="only a newer version of a FineTuneJob is taken",
)

ORDER = (
    Row(
        fault="f14",
        tests=(f"{_TESTS}::test_f14_replayed_events_cause_no_writes",),
        edits=(_ONLY_NEWER,),
    ),
    Row(
        fault="f15",
        tests=(f"{_TESTS}::test_f15_an_edit_that_was_taken_back_is_not_acted_on_when_news_of_the_gang_overtake_it",),
        edits=(_ONLY_NEWER,),
    ),
    Row(
        fault="f16",
        tests=(
            f"{_TESTS}::test_f16_watches_far_behind_our_writes_make_no_second_job_and_no_attempt_falls",
            f"{_TESTS}::test_f16_late_events_of_deleted_jobs_bring_none_of_them_back",
        ),
        edits=(
            _ONLY_NEWER,
            Edit(
                file=f"{OPERATOR}/status_writer.py",
                text='            "metadata": {"resourceVersion": str(view.version), "uid": view.uid},\n',
                replacement='            "metadata": {"uid": view.uid},\n',
                why="a status is written onto the version that was decided on",
            ),
            Edit(
                file=f"{OPERATOR}/store.py",
                text="        if record.version <= self._ended.get(record.uid, 0):\n            return False\n",
                replacement="",
                why="what is known to be deleted stays so",
            ),
        ),
    ),
    Row(
        fault="f17",
        tests=(
            f"{_TESTS}::test_f17_an_event_that_was_lost_is_healed_by_the_next_list",
            f"{_TESTS}::test_f17_a_deletion_that_was_lost_is_healed_by_the_next_list",
        ),
        edits=(
            Edit(
                file=f"{OPERATOR}/app.py",
                text="                await asyncio.wait_for(self._relist.wait(), self.settings.relist_every_s)\n",
                replacement="                await self._relist.wait()\n",
                why="everything is listed anew now and then",
            ),
        ),
    ),
    Row(
        fault="f18",
        tests=(f"{_TESTS}::test_f18_a_conflict_on_the_status_is_decided_anew_from_the_newer_version",),
        edits=(
            Edit(
                file=f"{OPERATOR}/status_writer.py",
                text="            await self._read_again(view)\n            raise\n",
                replacement="            raise\n",
                why="the newer version is asked for: its event may be far behind",
            ),
        ),
    ),
    Row(
        fault="f19",
        tests=(f"{_TESTS}::test_f19_a_job_name_that_is_taken_is_a_condition_and_the_job_is_never_adopted",),
        edits=(
            Edit(
                file=f"{OPERATOR}/children.py",
                text='    if controller.get("uid") == view.uid:\n        return\n',
                replacement="    if view.uid:\n        return\n",
                why="a Job is ours when its controller is our FineTuneJob, whatever its name",
            ),
        ),
    ),
)
