"""Decide what a fine-tuning job needs next.

Pure: same view, same clock, same decision. Reads and writes nothing. The rules stand in the order in which they win: an
end that happened, the end that the spec asks for, and only then what it would take to go on.
"""

from datetime import datetime, timedelta

from finetune_api.exit_codes import Reason
from finetune_api.names import job_name
from finetune_api.result import Failure
from finetune_api.validation import Problem
from finetune_operator import ending
from finetune_operator.diagnose import diagnose, final_result
from finetune_operator.living import alive, failing, resumed
from finetune_operator.observe import JobFacts
from finetune_operator.settings import Settings
from finetune_operator.status import Draft
from finetune_operator.store import Blocked
from finetune_operator.view import Decision, View


def decide(view: View, settings: Settings) -> Decision:
    """Return what a job needs next."""
    decision = Decision(Draft(view.status, view.generation, view.now))
    if view.deleting:
        return decision
    if decision.draft.holds("Finished"):
        return _after_the_end(view, decision)
    job = view.children.get(job_name(view.key.name, view.uid, decision.draft.attempt))
    others = (each for each in view.children.values() if each is not job)
    decision.delete = [each for each in others if not each.ended and not each.deleting]
    if job is not None and job.ended:
        return _ended(view, decision, job, settings)
    if view.problems and all(each.unknown for each in view.problems):
        return _hold(view, decision)
    if view.problems:
        return ending.fail(decision, _invalid(view.problems), view, accepted=False)
    if _deadline_passed(view, decision):
        return ending.stop(decision, job, _deadline_failure(view), view)
    if job is not None and job.condition("FailureTarget"):
        return failing(view, decision, job, settings)
    if view.suspend:
        return _suspend(view, decision, job)
    if job is None:
        return _missing(view, decision, settings)
    return alive(view, decision, job, settings)


def _hold(view: View, decision: Decision) -> Decision:
    """Wait for a newer operator: the definition knows a field that this one does not, as in an upgrade of both.

    To run the job without it would be another job than was asked for, and to fail it would be for good.
    """
    paths = ", ".join(each.path for each in view.problems)
    message = f"this operator does not know {paths}; upgrade it, or remove what the job does not need"
    decision.draft.set("Accepted", "False", "UnknownField", message)
    decision.draft.stop_running("UnknownField", message)
    decision.draft.move("Pending")
    return decision


def _after_the_end(view: View, decision: Decision) -> Decision:
    """Stop what a crash between status and deletion left running, and delete the job after its time."""
    decision.delete = [each for each in view.children.values() if not each.ended and not each.deleting]
    ttl_s = view.spec.get("ttlSecondsAfterFinished")
    if ttl_s is not None:
        due = datetime.fromisoformat(decision.draft.value["completionTime"]) + timedelta(seconds=ttl_s)
        decision.delete_self = view.now >= due
        decision.wake(due)
    return decision


def _ended(view: View, decision: Decision, job: JobFacts, settings: Settings) -> Decision:
    if view.looked_at(job, "ended") is None:
        decision.look = (job, "ended")
        return decision
    pods = view.pods(job)
    if job.condition("Complete"):
        return ending.complete(decision, final_result(pods), view)
    return ending.after_failure(decision, diagnose(job, pods, view.last_sign), view, settings)


def _suspend(view: View, decision: Decision, job: JobFacts | None) -> Decision:
    draft = decision.draft
    if job is not None and view.queue:
        # Kueue restarts a suspended Job whose Workload is admitted, so the Job goes; resuming is an attempt of its own.
        decision.delete.append(job)
        draft.value["attempt"] = draft.attempt + 1
        job = None
    if job is not None and not job.suspended:
        decision.suspend = (job, True)
        return decision
    if job is not None and (job.active or job.terminating):
        return decision
    draft.stop_running("Suspended", "spec.suspend is true")
    draft.set(
        "Suspended", "True", "Suspended", "spec.suspend is true; set it to false to go on from the last checkpoint"
    )
    draft.move("Suspended")
    return decision


def _missing(view: View, decision: Decision, settings: Settings) -> Decision:
    """Make the attempt's children, now or when its backoff is over."""
    draft = decision.draft
    was_there = view.memory.lost == job_name(view.key.name, view.uid, draft.attempt)
    if (was_there or draft.holds("Running")) and not view.confirmed_missing:
        decision.confirm_missing = True
        return decision
    if draft.holds("Running"):
        message = f"the Job of attempt {draft.attempt} was deleted by somebody else"
        return ending.restart(decision, Failure.of(Reason.EVICTED, message), view, settings, counted=False)
    due = _restart_due(draft, settings, view.uid)
    if due is not None and view.now < due:
        decision.wake(due)
        return decision
    resumed(draft)
    blocked = view.memory.blocked
    if blocked is not None:
        tell_blocked(draft, blocked)
        decision.wake(blocked.until)
        if view.now < blocked.until:
            return decision
    if was_there:
        message = f"Job {view.memory.lost} was deleted by somebody else before it ran; made again"
        decision.events.append(("Warning", "Drift", message))
    decision.create = draft.attempt
    return decision


def tell_blocked(draft: Draft, blocked: Blocked) -> None:
    """Say why the attempt's Job does not exist."""
    if blocked.reason == "NameConflict":
        draft.set("NameConflict", "True", blocked.reason, blocked.message)
    draft.stop_running(blocked.reason, blocked.message)
    draft.move("Pending")


def _deadline_passed(view: View, decision: Decision) -> bool:
    limit_s = view.spec.get("activeDeadlineSeconds")
    return limit_s is not None and decision.draft.active_s() >= limit_s


def _deadline_failure(view: View) -> Failure:
    message = f"spec.activeDeadlineSeconds: ran for {view.spec['activeDeadlineSeconds']} s"
    return Failure.of(Reason.DEADLINE_EXCEEDED, message, "Raise it in a new job, which can start from the checkpoint.")


def _invalid(problems: tuple[Problem, ...]) -> Failure:
    return Failure.of(Reason.INVALID_SPEC, "\n".join(map(str, problems)), "Correct the manifest and make a new job.")


def _restart_due(draft: Draft, settings: Settings, uid: str) -> datetime | None:
    """Return when the next attempt may begin: the time of the failure plus a wait that doubles, with fixed jitter."""
    if draft.phase != "Restarting":
        return None
    failed_at = datetime.fromisoformat(draft.value["restartTime"])
    return failed_at + timedelta(seconds=ending.backoff_s(draft.value.get("restarts", 0), uid, settings))
