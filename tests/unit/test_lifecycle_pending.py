"""What is told of a job whose pods do not start, and when the pods are looked at."""

from finetune_operator.lifecycle import decide
from finetune_operator.status import condition
from support.jobs import SETTINGS, A, after, pod


def test_a_job_that_waits_in_a_queue_is_left_to_the_queue():
    decision = decide(A(scheduling={"queue": "q"}).job(suspended=True, active=0).at(after(9000)).view(), SETTINGS)

    assert decision.suspend is None
    assert decision.draft.value["phase"] == "Pending"
    assert condition(decision.draft.value, "Running")["reason"] == "Queued"


def test_pods_that_wait_are_looked_at_and_told_and_fail_at_their_deadline():
    job = A(pendingDeadlineSeconds=600).job()
    fresh = decide(job.at(after(5)).view(), SETTINGS)
    due = decide(job.at(after(31)).view(), SETTINGS)
    told = decide(job.saw("pending", pod(phase="Pending"), at=after(31)).at(after(32)).view(), SETTINGS)
    late = decide(job.saw("pending", pod(phase="Pending"), at=after(601)).at(after(601)).view(), SETTINGS)

    assert fresh.wake_at == after(30)
    assert due.look is not None
    assert told.draft.value["phase"] == "Pending"
    assert late.draft.value["failure"]["reason"] == "PendingDeadlineExceeded"


def test_a_job_that_its_queue_just_admitted_after_hours_has_not_waited_for_pods_yet():
    decision = decide(A().job(started_at=None).at(after(7200)).view(), SETTINGS)

    assert decision.draft.patch() is None
    assert decision.look is None
    assert decision.wake_at == after(7200 + SETTINGS.pending_look_s)


def test_waiting_for_hours_for_the_same_reason_writes_once():
    job = A(pendingDeadlineSeconds=100000).job().saw("pending", pod(phase="Pending"), at=after(31)).at(after(32))
    first = decide(job.view(), SETTINGS)
    written = first.draft.patch()
    again = decide(job.with_status(**first.draft.value).at(after(50)).view(), SETTINGS)

    assert written is not None
    assert again.draft.patch() is None


def test_pods_of_a_job_among_many_that_wait_are_looked_at_less_often():
    job = A(pendingDeadlineSeconds=100000).job().saw("pending", pod(phase="Pending"), at=after(40))
    alone = decide(job.at(after(41)).view(), SETTINGS)
    job.more["look_again_s"] = 2500.0
    among_many = decide(job.at(after(41)).view(), SETTINGS)
    due = decide(job.at(after(2541)).view(), SETTINGS)

    assert alone.wake_at == after(100)
    assert among_many.wake_at == after(2540)
    assert due.look is not None
