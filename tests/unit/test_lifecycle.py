"""What a job needs next, rule by rule; the clock and the cluster are values."""

from typing import Any

import pytest

from finetune_api.exit_codes import Reason, retryable
from finetune_api.validation import Problem
from finetune_operator.lifecycle import decide
from finetune_operator.status import TRANSITIONS, Draft, condition
from finetune_operator.store import Blocked
from support.jobs import NOON, SETTINGS, A, after, complete_pod, failed_pod, pod


def holds(status: dict[str, Any], kind: str) -> bool:
    return condition(status, kind).get("status") == "True"


def test_an_untouched_job_gets_its_first_attempt_and_no_status_write():
    decision = decide(A().view(), SETTINGS)

    assert decision.create == 1
    assert decision.draft.patch() is None


def test_an_attempt_whose_job_exists_is_not_made_again():
    decision = decide(A().job().view(), SETTINGS)

    assert decision.create is None


def test_a_job_whose_pods_are_ready_is_running_in_one_write():
    decision = decide(A().job(ready=1).view(), SETTINGS)
    status = decision.draft.value

    assert status["phase"] == "Running"
    assert status["attempt"] == 1
    assert status["startTime"] == "2026-01-01T12:00:00Z"
    assert holds(status, "Running")
    assert holds(status, "Accepted")


def test_a_running_job_that_stays_so_is_not_written_again():
    assert decide(A().running().job(ready=1).view(), SETTINGS).draft.patch() is None


def test_a_complete_gang_finishes_the_job_with_its_result():
    view = A().running().job(conditions=("Complete",)).saw("ended", complete_pod(accuracy=0.9)).at(after(90)).view()
    status = decide(view, SETTINGS).draft.value

    assert status["phase"] == "Complete"
    assert status["result"]["metrics"] == {"accuracy": "0.9"}
    assert status["activeSeconds"] == 90
    assert holds(status, "Complete")
    assert holds(status, "Finished")
    assert holds(status, "Evaluated")


def test_a_complete_gang_whose_pods_are_gone_is_complete_and_says_that_the_result_is_unknown():
    view = A().running().job(conditions=("Complete",)).saw("ended").view()
    status = decide(view, SETTINGS).draft.value

    assert status["phase"] == "Complete"
    assert condition(status, "Evaluated")["status"] == "Unknown"
    assert "result" not in status


def test_an_end_is_judged_by_pods_that_were_listed_after_it():
    decision = decide(A().running().job(conditions=("Failed",)).saw("pending", pod()).view(), SETTINGS)

    assert decision.look is not None
    assert decision.draft.patch() is None


@pytest.mark.parametrize("reason", [each for each in Reason if not retryable(each)])
def test_what_the_user_must_fix_fails_at_once(reason: Reason):
    view = A().running().job(conditions=("Failed",)).saw("ended", failed_pod(reason.value)).view()
    status = decide(view, SETTINGS).draft.value

    assert status["phase"] == "Failed"
    assert status["failure"]["reason"] == reason.value
    assert status["failure"]["remedy"] == "mend it"
    assert holds(status, "Finished")


@pytest.mark.parametrize("reason", [each for each in Reason if retryable(each)])
def test_what_is_ours_to_retry_is_followed_by_the_next_attempt(reason: Reason):
    view = A().running().job(conditions=("Failed",)).saw("ended", failed_pod(reason.value)).view()
    decision = decide(view, SETTINGS)
    status = decision.draft.value

    assert status["phase"] == "Restarting"
    assert status["attempt"] == 2
    assert status["restarts"] == (0 if reason in {Reason.PREEMPTED, Reason.EVICTED} else 1)
    assert not holds(status, "Finished")
    assert decision.create is None, "the attempt is written before its Job is posted"


def test_memory_that_ran_out_halves_the_micro_batch_and_tells_it():
    view = A().running().with_status(resolved={"microBatch": "8 (fits)"}).job(conditions=("Failed",))
    decision = decide(view.saw("ended", failed_pod("HostOutOfMemory")).view(), SETTINGS)

    assert decision.draft.value["resolved"]["microBatchLimit"].startswith("4 ")
    assert [reason for _, reason, _ in decision.events] == ["MicroBatchHalved", "HostOutOfMemory"]


def test_memory_that_ran_out_with_one_sample_is_the_end():
    view = A().running().with_status(resolved={"microBatchLimit": "1 (half)"}).job(conditions=("Failed",))
    status = decide(view.saw("ended", failed_pod("DeviceOutOfMemory")).view(), SETTINGS).draft.value

    assert status["phase"] == "Failed"
    assert status["failure"]["reason"] == "DeviceOutOfMemory"


def test_a_second_unexplained_end_in_a_row_is_the_last():
    first = A().running(attempt=2).job(attempt=2, conditions=("Failed",))
    first.with_status(failure={"reason": "Unknown"}, restarts=1)
    status = decide(first.saw("ended", failed_pod("Unknown"), attempt=2).view(), SETTINGS).draft.value

    assert status["phase"] == "Failed"
    assert status["failure"]["reason"] == "Unknown"


def test_restarts_beyond_the_limit_fail_with_the_last_cause_in_the_message():
    job = A(restarts={"limit": 1}).running(attempt=2).with_status(restarts=1).job(attempt=2, conditions=("Failed",))
    status = decide(job.saw("ended", failed_pod("NodeLost"), attempt=2).view(), SETTINGS).draft.value

    assert status["failure"]["reason"] == "RestartLimitExceeded"
    assert "NodeLost" in status["failure"]["message"]


def test_a_restart_waits_for_its_backoff_and_then_posts_the_same_name():
    early = decide(A().restarting().at(after(1)).view(), SETTINGS)
    late = decide(A().restarting().at(after(60)).view(), SETTINGS)

    assert early.create is None
    assert early.wake_at is not None
    assert NOON < early.wake_at <= after(SETTINGS.restart_backoff_s)
    assert late.create == 2


def test_a_gang_that_is_ending_is_not_replaced():
    view = A().running().job(conditions=("FailureTarget",)).saw("failing", failed_pod("DataError")).view()
    decision = decide(view, SETTINGS)

    assert decision.draft.patch() is None
    assert decision.create is None


def test_a_gang_that_cannot_end_since_its_node_is_lost_is_given_up_after_the_timeout_and_not_before():
    def lost(seconds: float):
        job = A().running().job(conditions=("FailureTarget",)).saw("failing", pod(deleting=True))
        return decide(job.at(after(seconds)).view(), SETTINGS)

    before, late = lost(SETTINGS.node_lost_s - 1), lost(SETTINGS.node_lost_s + 1)

    assert before.draft.patch() is None
    assert late.draft.value["failure"]["reason"] == "NodeLost"
    assert late.draft.value["attempt"] == 2
    assert [each.attempt for each in late.delete] == [1]


def test_suspending_stops_the_gang_and_says_so_only_when_the_pods_are_gone():
    asked = decide(A(suspend=True).running().job(ready=1).view(), SETTINGS)
    stopping = decide(A(suspend=True).running().job(suspended=True, active=1).view(), SETTINGS)
    gone = decide(A(suspend=True).running().job(suspended=True, active=0).at(after(30)).view(), SETTINGS)

    assert asked.suspend is not None
    assert asked.suspend[1] is True
    assert asked.draft.patch() is None
    assert stopping.draft.patch() is None
    assert gone.draft.value["phase"] == "Suspended"
    assert gone.draft.value["activeSeconds"] == 30


def test_resuming_starts_the_same_attempt_again():
    decision = decide(A().suspended().job(suspended=True, active=0).view(), SETTINGS)

    assert decision.suspend is not None
    assert decision.suspend[1] is False
    assert decision.draft.attempt == 1


def test_suspending_in_a_queue_deletes_the_job_and_resuming_is_a_new_attempt_that_is_not_counted():
    queued = A(suspend=True, scheduling={"queue": "team-a"})
    decision = decide(queued.running().job(ready=1).view(), SETTINGS)

    assert [each.attempt for each in decision.delete] == [1]
    assert decision.suspend is None
    assert decision.draft.value["attempt"] == 2
    assert decision.draft.value.get("restarts", 0) == 0


def test_a_running_deadline_counts_all_attempts_and_no_suspension():
    job = A(activeDeadlineSeconds=100).running(since=NOON).with_status(activeSeconds=60).job(ready=1)
    before, late = (decide(job.at(after(s)).view(), SETTINGS) for s in (39, 41))

    assert before.draft.patch() is None
    assert before.wake_at == after(40)
    assert late.draft.value["failure"]["reason"] == "DeadlineExceeded"
    assert [each.attempt for each in late.delete] == [1]


def test_a_job_deleted_by_hand_is_only_believed_to_be_gone_when_the_api_server_says_so():
    asked = decide(A().running().view(), SETTINGS)
    missing = A().running()
    missing.more["confirmed_missing"] = True
    gone = decide(missing.view(), SETTINGS)

    assert asked.confirm_missing
    assert asked.create is None
    assert gone.draft.value["attempt"] == 2
    assert gone.draft.value["restarts"] == 0


@pytest.mark.parametrize("kind", ["Complete", "Failed"])
def test_a_finished_job_is_never_started_again(kind: str):
    decision = decide(A(training={"epochs": 9}).finished(kind).view(), SETTINGS)

    assert decision.create is None
    assert decision.draft.patch() is None


def test_what_a_crash_left_running_after_the_end_is_deleted():
    decision = decide(A().finished().job(ready=1).view(), SETTINGS)

    assert [each.attempt for each in decision.delete] == [1]


def test_a_finished_job_is_deleted_after_its_ttl_and_not_before():
    job = A(ttlSecondsAfterFinished=60).finished()
    before, late = (decide(job.at(after(s)).view(), SETTINGS) for s in (59, 60))

    assert not before.delete_self
    assert before.wake_at == after(60)
    assert late.delete_self


def test_an_invalid_spec_is_the_end_with_every_problem():
    job = A()
    job.more["problems"] = (Problem("spec.a", "wrong", "1", "Mend."), Problem("spec.b", "wrong", "2", "Mend."))
    status = decide(job.view(), SETTINGS).draft.value

    assert status["failure"]["reason"] == "InvalidSpec"
    assert "spec.a" in status["failure"]["message"]
    assert "spec.b" in status["failure"]["message"]
    assert condition(status, "Accepted")["status"] == "False"


def test_a_field_that_only_a_newer_operator_knows_holds_the_job_and_does_not_end_it():
    job = A()
    job.more["problems"] = (
        Problem("spec.training.newer", "this field does not exist", "1", "Remove it.", unknown=True),
    )
    status = decide(job.view(), SETTINGS).draft.value

    assert status["phase"] == "Pending"
    assert condition(status, "Accepted")["reason"] == "UnknownField"
    assert not holds(status, "Finished")
    assert decide(job.with_status(**status).view(), SETTINGS).draft.patch() is None


def test_a_refused_job_is_told_once_and_posted_again_later():
    job = A()
    job.memory.blocked = Blocked("QuotaExceeded", "exceeded quota: team", 1, after(10))
    waiting, again = (decide(job.at(after(s)).view(), SETTINGS) for s in (1, 11))

    assert waiting.create is None
    assert waiting.wake_at == after(10)
    assert condition(waiting.draft.value, "Running")["reason"] == "QuotaExceeded"
    assert again.create == 1


def test_labels_edited_by_somebody_are_restored():
    decision = decide(A().running().job(ready=1, labels={}).view(), SETTINGS)

    assert decision.relabel is not None
    assert decision.relabel[1]["finetune.dev/attempt"] == "1"


def test_a_gang_of_another_attempt_that_still_runs_is_deleted():
    decision = decide(A().running(attempt=2).job(attempt=1, ready=1).job(attempt=2, ready=1).view(), SETTINGS)

    assert [each.attempt for each in decision.delete] == [1]


PHASES = [phase for phase in TRANSITIONS if phase]


@pytest.mark.parametrize("start", list(TRANSITIONS))
@pytest.mark.parametrize("end", PHASES)
def test_a_phase_moves_only_as_the_table_says(start: str, end: str):
    draft = Draft({"phase": start} if start else {}, 1, NOON)

    if start == end or end in TRANSITIONS[start]:
        draft.move(end)  # type: ignore[arg-type]

        assert draft.phase == end
    else:
        with pytest.raises(AssertionError):
            draft.move(end)  # type: ignore[arg-type]
