"""Decide what a fine-tuning job needs next.

Pure: same view, same clock, same decision. Reads and writes nothing. The rules stand in the order in which they win: an
end that happened, the end that the spec asks for, and only then what it would take to go on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from finetune_api import names
from finetune_api.exit_codes import Reason
from finetune_api.names import job_name
from finetune_api.result import Failure
from finetune_api.validation import Problem
from finetune_operator import ending
from finetune_operator.admission import Admission
from finetune_operator.diagnose import Waiting, diagnose, final_result, waiting
from finetune_operator.observe import JobFacts, PodFacts
from finetune_operator.plan.identity import job_label
from finetune_operator.settings import Settings
from finetune_operator.status import Draft, rfc3339
from finetune_operator.store import Blocked, Key, Memory, Purpose

_LOOK_AGAIN_S = 60.0


@dataclass(frozen=True, slots=True)
class View:
    """All that is known of one job at one moment."""

    key: Key
    uid: str
    generation: int
    deleting: bool
    spec: Mapping[str, Any]
    status: Mapping[str, Any]
    children: Mapping[str, JobFacts]
    memory: Memory
    now: datetime
    problems: tuple[Problem, ...] = ()
    admissions: Mapping[str, Admission] = field(default_factory=dict[str, Admission])
    """What Kueue says, by the uid of the Job."""
    confirmed_missing: bool = False
    """Whether the API server itself said that the attempt's Job does not exist."""
    spec_hash: str = ""
    """Hash of a spec that was edited since the last status; empty for one that was not."""

    @property
    def queue(self) -> str:
        """The Kueue queue, empty for none."""
        return (self.spec.get("scheduling") or {}).get("queue", "")

    @property
    def suspend(self) -> bool:
        """Whether the user wants it stopped."""
        return bool(self.spec.get("suspend"))

    def pods(self, job: JobFacts) -> tuple[PodFacts, ...]:
        """Return the pods that were seen of a Job."""
        return self.memory.pods if self.memory.pods_of == job.uid else ()

    def looked_at(self, job: JobFacts, purpose: Purpose) -> datetime | None:
        """Return when the pods of a Job were first listed for a purpose; None when they were not."""
        return self.memory.looked.get(purpose) if self.memory.pods_of == job.uid else None


@dataclass(slots=True)
class Decision:
    """What to do, and the status that is true once it is done."""

    draft: Draft
    create: int | None = None
    """Attempt whose children are to be made."""
    suspend: tuple[JobFacts, bool] | None = None
    """Job to suspend (True) or resume."""
    delete: list[JobFacts] = field(default_factory=list[JobFacts])
    relabel: tuple[JobFacts, dict[str, str]] | None = None
    delete_self: bool = False
    look: tuple[JobFacts, Purpose] | None = None
    """Job whose pods must be listed before this can be decided, and what for; decide again with them."""
    confirm_missing: bool = False
    """The attempt's Job seems to be gone: ask the API server before anything follows from it."""
    wake_at: datetime | None = None
    events: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    """Type, reason and message of Kubernetes events."""

    def wake(self, at: datetime) -> None:
        """Look again at this time at the latest."""
        self.wake_at = at if self.wake_at is None else min(self.wake_at, at)


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
    if view.problems:
        return ending.fail(decision, _invalid(view.problems), view, accepted=False)
    if _deadline_passed(view, decision):
        return _stop(view, decision, job, _deadline_failure(view))
    if job is not None and job.condition("FailureTarget"):
        return _failing(view, decision, job, settings)
    if view.suspend:
        return _suspend(view, decision, job)
    if job is None:
        return _missing(view, decision, settings)
    return _alive(view, decision, job, settings)


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
    return ending.after_failure(decision, diagnose(job, pods, _last_sign(view)), view, settings)


def _losing_pods(view: View, decision: Decision, job: JobFacts, settings: Settings) -> Decision:
    """Look at pods that are being deleted while they can be seen; those of a suspension just ended go by themselves."""
    since = view.looked_at(job, "terminating")
    if since is None:
        decision.look = (job, "terminating")
        return decision
    return _give_up_later(view, decision, job, settings, since)


def _failing(view: View, decision: Decision, job: JobFacts, settings: Settings) -> Decision:
    """Gather the evidence while the gang ends; a new attempt waits until every pod is gone or terminal."""
    since = view.looked_at(job, "failing")
    if since is None:
        decision.look = (job, "failing")
        return decision
    target = job.condition("FailureTarget")
    return _give_up_later(view, decision, job, settings, (target.at if target else None) or since)


def _give_up_later(view: View, decision: Decision, job: JobFacts, settings: Settings, since: datetime) -> Decision:
    due = since + timedelta(seconds=settings.node_lost_s)
    if view.now < due:
        decision.wake(due)
        return decision
    pods = view.pods(job)
    # Pods of a node that does not answer never end. The attempt is given up; its late ranks are fenced off.
    decision.delete.append(job)
    failure = diagnose(job, pods, _last_sign(view))
    if failure.reason == Reason.UNKNOWN:
        message = f"pods of {job.name} did not end within {settings.node_lost_s:.0f} s; their node does not answer."
        failure = Failure.of(Reason.NODE_LOST, message, "The node is checked by its administrator.")
    return ending.after_failure(decision, failure, view, settings)


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
    _resumed(draft)
    blocked = view.memory.blocked
    if blocked is not None:
        _tell_blocked(draft, blocked)
        decision.wake(blocked.until)
        if view.now < blocked.until:
            return decision
    if was_there:
        message = f"Job {view.memory.lost} was deleted by somebody else before it ran; made again"
        decision.events.append(("Warning", "Drift", message))
    decision.create = draft.attempt
    return decision


def _tell_blocked(draft: Draft, blocked: Blocked) -> None:
    if blocked.reason == "NameConflict":
        draft.set("NameConflict", "True", blocked.reason, blocked.message)
    draft.stop_running(blocked.reason, blocked.message)
    draft.move("Pending")


def _alive(view: View, decision: Decision, job: JobFacts, settings: Settings) -> Decision:
    draft = decision.draft
    if job.deleting:
        return decision
    _compare(view, decision, job)
    if draft.condition("NameConflict"):
        draft.set("NameConflict", "False", "Resolved")
    _mirror_admission(view, draft, job)
    if job.suspended:
        if view.queue:
            return _queued(decision)
        if not draft.holds("Suspended") and not draft.condition("Suspended"):
            decision.events.append(("Warning", "Drift", f"Job {job.name} was suspended by somebody else; resumed"))
        decision.suspend = (job, False)
        return decision
    _resumed(draft)
    if job.terminating:
        return _losing_pods(view, decision, job, settings)
    if job.ready >= job.nodes:
        return _running(view, decision, settings)
    if not draft.holds("Running"):
        return _pending(view, decision, job, settings)
    _watch_limits(view, decision)
    return decision


def _compare(view: View, decision: Decision, job: JobFacts) -> None:
    """Restore our labels; tell of a spec that asks for other pods, which are left alone."""
    wanted = _own_labels(view, decision.draft.attempt)
    if any(job.labels.get(name) != value for name, value in wanted.items()):
        decision.relabel = (job, wanted)
    if view.spec_hash and job.spec_hash and view.spec_hash != job.spec_hash:
        message = f"the spec asks for other pods than Job {job.name} has; they stay, the next attempt takes it"
        decision.events.append(("Normal", "SpecChanged", message))


def _mirror_admission(view: View, draft: Draft, job: JobFacts) -> None:
    admission = view.admissions.get(job.uid)
    if view.queue and admission is not None:
        draft.set("Admitted", admission.status, admission.reason, admission.message)


def _queued(decision: Decision) -> Decision:
    """Wait for Kueue; being queued is no pending pod and has no deadline."""
    draft = decision.draft
    draft.stop_running("Queued", "waits for its queue to admit it")
    draft.move("Pending")
    return decision


def _running(view: View, decision: Decision, settings: Settings) -> Decision:
    draft = decision.draft
    if not draft.holds("Running"):
        draft.set("Accepted", "True", "Valid")
        draft.set("Running", "True", "PodsReady")
        draft.move("Running")
        draft.value.setdefault("attempt", draft.attempt)
        draft.value.setdefault("startTime", rfc3339(view.now))
    _watch_limits(view, decision)
    _watch_heartbeat(view, decision, settings)
    return decision


def _watch_limits(view: View, decision: Decision) -> None:
    limit_s = view.spec.get("activeDeadlineSeconds")
    if limit_s is not None and decision.draft.holds("Running"):
        decision.wake(view.now + timedelta(seconds=max(0.0, limit_s - decision.draft.active_s())))


def _watch_heartbeat(view: View, decision: Decision, settings: Settings) -> None:
    """Tell of silence; only the launcher's own watchdog ends a gang."""
    if not settings.progress_url:
        return
    draft = decision.draft
    since = datetime.fromisoformat(draft.condition("Running")["lastTransitionTime"])
    last = max(since, view.memory.heartbeat_at or since)
    due = last + timedelta(seconds=settings.stale_after_s)
    if view.now < due:
        decision.wake(due)
        if draft.holds("ProgressStale"):
            draft.set("ProgressStale", "False", "Reporting")
        return
    if not draft.holds("ProgressStale"):
        message = f"no progress was reported since {rfc3339(last)}; training may go on all the same"
        draft.set("ProgressStale", "True", "NoHeartbeat", message)


def _pending(view: View, decision: Decision, job: JobFacts, settings: Settings) -> Decision:
    """Say why pods do not start once that takes long; give up when a deadline passes or waiting cannot help."""
    draft = decision.draft
    since = job.started_at or job.created_at
    waited_s = (view.now - since).total_seconds()
    if waited_s < settings.pending_look_s:
        decision.wake(since + timedelta(seconds=settings.pending_look_s))
        return decision
    why = _why_pending(view, job)
    due = _next_look(view, job, since + timedelta(seconds=settings.image_pull_s) if why.fatal else None)
    if view.now >= due:
        decision.look = (job, "pending")
        return decision
    limit_s = float(view.spec.get("pendingDeadlineSeconds", 600))
    if why.fatal is not None and waited_s >= settings.image_pull_s:
        return _stop(view, decision, job, Failure.of(why.fatal, why.message, why.remedy))
    if waited_s >= limit_s:
        message = f"pods waited {waited_s:.0f} s, at most {limit_s:.0f} s are allowed: {why.reason}: {why.message}"
        return _stop(view, decision, job, Failure.of(Reason.PENDING_DEADLINE_EXCEEDED, message, why.remedy))
    draft.set("Accepted", "True", "Valid")
    draft.stop_running(why.reason, ". ".join(filter(None, (why.message, why.remedy))))
    draft.move("Pending")
    decision.wake(min(due, since + timedelta(seconds=limit_s)))
    return decision


def _why_pending(view: View, job: JobFacts) -> Waiting:
    pods = view.pods(job)
    refusal = view.memory.refusal
    if pods or not refusal:
        return waiting(pods)
    remedy = "The Job's pods are made as soon as there is room; ask for less, or have the limit raised."
    return Waiting("QuotaExceeded" if "exceeded quota" in refusal else "Refused", refusal, remedy, None)


def _next_look(view: View, job: JobFacts, verdict_at: datetime | None) -> datetime:
    """Return when pods that wait are listed again; a verdict at a time needs a list that is not older."""
    seen_at = view.memory.pods_at
    if view.looked_at(job, "pending") is None or seen_at is None:
        return view.now
    due = seen_at + timedelta(seconds=_LOOK_AGAIN_S)
    return min(due, verdict_at) if verdict_at is not None and seen_at < verdict_at else due


def _stop(view: View, decision: Decision, job: JobFacts | None, failure: Failure) -> Decision:
    """Fail at once and end the gang; the status is written first, so that a crash in between cannot lose the reason."""
    if job is not None and not job.deleting:
        decision.delete.append(job)
    return ending.fail(decision, failure, view)


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


def _resumed(draft: Draft) -> None:
    if draft.holds("Suspended"):
        draft.set("Suspended", "False", "Resumed")
        draft.move("Pending")


def _own_labels(view: View, attempt: int) -> dict[str, str]:
    return {
        names.LABEL_MANAGED_BY: names.MANAGER,
        names.LABEL_JOB: job_label(view.key.name),
        names.LABEL_JOB_UID: view.uid,
        names.LABEL_ATTEMPT: str(attempt),
    }


def _last_sign(view: View) -> str:
    at = view.memory.heartbeat_at
    return "" if at is None else rfc3339(at)
