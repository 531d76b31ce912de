"""What holds in every situation, however it came about: hypothesis makes the jobs, their Jobs and the clock."""

import itertools
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.exit_codes import Reason, disposition
from finetune_api.names import job_name
from finetune_operator.lifecycle import decide
from finetune_operator.observe import worth_a_pass
from finetune_operator.view import Decision
from support.jobs import NOON, SETTINGS, UID, A, failed_pod


@st.composite
def situations(draw: st.DrawFn) -> A:
    suspend, queue = draw(st.booleans()), draw(st.sampled_from(["", "q"]))
    scheduling = {"queue": queue} if queue else {}
    job = A(suspend=suspend, scheduling=scheduling, activeDeadlineSeconds=draw(st.sampled_from([60, 9000])))
    draw(st.sampled_from([lambda: job, job.running, job.suspended, job.restarting, job.finished]))()
    for attempt in draw(st.sets(st.integers(1, 3), max_size=2)):
        conditions = draw(st.sampled_from([(), ("Failed",), ("Complete",), ("FailureTarget",), ("Suspended",)]))
        counts = {name: draw(st.integers(0, 1)) for name in ("active", "ready", "terminating")}
        job.job(attempt=attempt, conditions=conditions, suspended=draw(st.booleans()), **counts)
        if draw(st.booleans()):
            reason = draw(st.sampled_from(list(Reason)))
            purpose = draw(st.sampled_from(["ended", "failing", "pending", "terminating"]))
            job.saw(purpose, failed_pod(reason.value), attempt=attempt)
    return job.at(NOON + timedelta(seconds=draw(st.integers(0, 100000))))


@given(situations())
@settings(deadline=None, max_examples=400)
def test_in_every_situation_an_attempt_never_falls_and_an_end_is_final(job: A):
    before = dict(job.status)
    decision = decide(job.view(), SETTINGS)
    status = decision.draft.value

    assert status.get("attempt", 1) >= before.get("attempt", 1)
    assert status.get("restarts", 0) >= before.get("restarts", 0)
    if before.get("phase") in {"Complete", "Failed"}:
        assert decision.draft.patch() is None
        assert decision.create is None
    if decision.create is not None:
        assert decision.create == decision.draft.attempt
        name = job_name("a", UID, decision.create)
        assert name not in job.children
    if status.get("failure"):
        assert disposition(Reason(status["failure"]["reason"]))


@given(situations())
@settings(deadline=None, max_examples=200)
def test_the_same_view_gives_the_same_decision_and_a_written_one_is_not_written_again(job: A):
    first, second = decide(job.view(), SETTINGS), decide(job.view(), SETTINGS)
    assert first.draft.value == second.draft.value

    settled = job.with_status(**first.draft.value)
    third = decide(settled.view(), SETTINGS)
    fourth = decide(settled.with_status(**third.draft.value).view(), SETTINGS)
    assert fourth.draft.value.get("attempt") == third.draft.value.get("attempt")


COUNTS = ("active", "ready", "terminating")
HELD: dict[str, Callable[[A], A]] = {
    "new": lambda job: job,
    "running": lambda job: job.running(),
    "suspended": lambda job: job.suspended(),
    "restarting": lambda job: job.restarting(),
}


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize("conditions", [(), ("FailureTarget",), ("Suspended",), ("Complete",)])
def test_an_update_of_a_job_that_brings_no_pass_would_have_changed_no_decision(
    held: str, suspend: bool, conditions: tuple[str, ...]
):
    def seen(counts: tuple[int, ...], more: tuple[str, ...]) -> A:
        job = HELD[held](A(suspend=suspend))
        values = dict(zip(COUNTS, counts, strict=True))
        suspended = suspend or "Suspended" in conditions
        return job.job(
            attempt=job.status.get("attempt", 1), conditions=conditions + more, suspended=suspended, **values
        )

    quiet = 0
    for before, after in itertools.product(itertools.product((0, 1), repeat=3), repeat=2):
        old, new = seen(before, ()), seen(after, ("SuccessCriteriaMet",))
        (was,), (became,) = old.children.values(), new.children.values()
        if worth_a_pass(was, became):
            continue
        quiet += 1
        # The pass for the older state was made, and its status was written.
        for each in (old, new):
            each.status = {**each.status, **decide(seen(before, ()).view(), SETTINGS).draft.value}
        first, second = decide(old.view(), SETTINGS), decide(new.view(), SETTINGS)

        assert told(first) == told(second), (before, after)
    assert quiet > 0


def told(decision: Decision) -> tuple[object, ...]:
    jobs = [each.name for each in decision.delete]
    asked = (decision.create, decision.confirm_missing, decision.look is None, decision.suspend is None)
    return (decision.draft.value, jobs, decision.wake_at, *asked)
