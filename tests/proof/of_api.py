"""FAULTS 8 to 13."""

from proof.row import OPERATOR, Edit, Row

_TESTS = "tests/control_plane/test_faults_api.py"

API = (
    Row(
        fault="f08",
        tests=(f"{_TESTS}::test_f08_down_it_does_not_crash_and_back_its_backlog_is_done_within_ten_seconds",),
        edits=(
            Edit(
                file=f"{OPERATOR}/app.py",
                text="        self.queue.hurry()\n",
                replacement="",
                why="a list that succeeds ends the waits that an outage made long",
            ),
        ),
    ),
    Row(
        fault="f09",
        tests=(
            f"{_TESTS}::test_f09_http_500_to_everything_leaves_it_alive_and_at_work_afterwards",
            f"{_TESTS}::test_f09_started_while_everything_is_http_500_it_waits_and_then_works",
        ),
        edits=(
            Edit(
                file=f"{OPERATOR}/watch.py",
                text="            except errors.ClusterError as error:\n",
                replacement="            except errors.Gone as error:\n",
                why="whatever the server answers ends one watch, never the loop",
            ),
        ),
    ),
    Row(
        fault="f09-told",
        tests=(f"{_TESTS}::test_f09_a_server_that_makes_no_job_while_a_webhook_is_down_is_told_and_asked_again",),
        edits=(
            Edit(
                file=f"{OPERATOR}/reconcile.py",
                text="            if error.code and self._queue.failures(view.key) >= _TOLD_AFTER:\n",
                replacement="            if False:\n",
                why="a Job that cannot be posted for long is told",
            ),
        ),
    ),
    Row(
        fault="f10",
        tests=(
            f"{_TESTS}::test_f10_retry_after_is_obeyed_whatever_happens_to_its_key_meanwhile",
            f"{_TESTS}::test_f10_keys_that_are_told_to_wait_an_hour_starve_no_other_key",
        ),
        edits=(
            Edit(
                file=f"{OPERATOR}/queue.py",
                text="        if retry_after_s is not None:\n",
                replacement="        if False:\n",
                why="a key waits as long as the server says, whatever happens meanwhile",
            ),
        ),
    ),
    Row(
        fault="f10-starved",
        tests=(f"{_TESTS}::test_f10_keys_that_are_told_to_wait_an_hour_starve_no_other_key",),
        edits=(
            Edit(
                file=f"{OPERATOR}/reconcile.py",
                text="                wait_s = self._queue.failed(key, error.retry_after_s)\n",
                replacement=(
                    "                wait_s = self._queue.failed(key, error.retry_after_s)\n"
                    "                await asyncio.sleep(wait_s)\n"
                ),
                why="the key waits, its worker goes on with another",
            ),
        ),
    ),
    Row(
        fault="f11",
        tests=(f"{_TESTS}::test_f11_a_watch_that_ends_with_an_error_is_listed_anew_before_it_is_watched_again",),
        edits=(
            Edit(
                file=f"{OPERATOR}/watch.py",
                text="                version = None\n                # A watch",
                replacement="                # A watch",
                why="Jobs are listed after an error",
            ),
            Edit(
                file=f"{OPERATOR}/handlers.py",
                text="            if self._stop.is_set():\n                return\n            self._on_restart(why)\n",
                replacement="            return\n",
                why="kopf, which an error ends, is started again",
            ),
        ),
    ),
    Row(
        fault="f12",
        tests=(
            f"{_TESTS}::test_f12_after_410_gone_the_only_job_deleted_in_the_gap_is_purged",
            f"{_TESTS}::test_f12_after_410_gone_on_both_watches_nothing_acts_on_ghosts_and_the_rest_goes_on",
        ),
        edits=(
            Edit(
                file=f"{OPERATOR}/app.py",
                text=(
                    "            for key in self.store.purge(namespace, listed, version):\n"
                    "                self.queue.add(key, Priority.ROUTINE)\n"
                ),
                replacement="",
                why="what a whole list lacks is forgotten",
            ),
            Edit(
                file=f"{OPERATOR}/reconcile.py",
                text=(
                    "        if self._store.vanished(record.uid) and not await self._still_there(record):\n"
                    "            return\n"
                ),
                replacement="",
                why="the owner of a Job that went away is asked for before anything follows from it",
            ),
        ),
    ),
    Row(
        fault="f13",
        tests=(f"{_TESTS}::test_f13_watches_that_fall_silent_are_opened_anew",),
        edits=(
            Edit(
                file=f"{OPERATOR}/cluster.py",
                text="sock_read=idle_s)",
                replacement="sock_read=None)",
                why="a silent watch of Jobs counts as dead",
            ),
            Edit(
                file=f"{OPERATOR}/handlers.py",
                text="    settings.watching.inactivity_timeout = watch_idle_s\n",
                replacement="    settings.watching.inactivity_timeout = 3600.0\n",
                why="so does one of FineTuneJobs",
            ),
        ),
    ),
)
