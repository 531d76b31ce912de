"""What a gang needs while it lives: waiting for its pods, running, losing some of them. Pure."""

from datetime import datetime, timedelta

from finetune_api import names
from finetune_api.exit_codes import Reason
from finetune_api.result import Failure
from finetune_operator import ending
from finetune_operator.diagnose import Waiting, diagnose, waiting
from finetune_operator.observe import JobFacts
from finetune_operator.plan.identity import job_label
from finetune_operator.settings import Settings
from finetune_operator.status import Draft, rfc3339
from finetune_operator.view import Decision, View


def alive(view: View, decision: Decision, job: JobFacts, settings: Settings) -> Decision:
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
    resumed(draft)
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
    since = job.started_at
    if since is None:
        # A Job that was suspended may be hours old: its wait begins when the Job controller starts it.
        decision.wake(view.now + timedelta(seconds=settings.pending_look_s))
        return decision
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
        return ending.stop(decision, job, Failure.of(why.fatal, why.message, why.remedy), view)
    if waited_s >= limit_s:
        message = f"pods waited {waited_s:.0f} s, at most {limit_s:.0f} s are allowed: {why.reason}: {why.message}"
        return ending.stop(decision, job, Failure.of(Reason.PENDING_DEADLINE_EXCEEDED, message, why.remedy), view)
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
    due = seen_at + timedelta(seconds=view.look_again_s)
    return min(due, verdict_at) if verdict_at is not None and seen_at < verdict_at else due


def _losing_pods(view: View, decision: Decision, job: JobFacts, settings: Settings) -> Decision:
    """Look at pods that are being deleted while they can be seen; those of a suspension just ended go by themselves."""
    since = view.looked_at(job, "terminating")
    if since is None:
        decision.look = (job, "terminating")
        return decision
    return _give_up_later(view, decision, job, settings, since)


def failing(view: View, decision: Decision, job: JobFacts, settings: Settings) -> Decision:
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
    failure = diagnose(job, pods, view.last_sign)
    if failure.reason == Reason.UNKNOWN:
        message = f"pods of {job.name} did not end within {settings.node_lost_s:.0f} s; their node does not answer."
        failure = Failure.of(Reason.NODE_LOST, message, "The node is checked by its administrator.")
    return ending.after_failure(decision, failure, view, settings)


def _own_labels(view: View, attempt: int) -> dict[str, str]:
    return {
        names.LABEL_MANAGED_BY: names.MANAGER,
        names.LABEL_JOB: job_label(view.key.name),
        names.LABEL_JOB_UID: view.uid,
        names.LABEL_ATTEMPT: str(attempt),
    }


def resumed(draft: Draft) -> None:
    """Note that a suspension is over."""
    if draft.holds("Suspended"):
        draft.set("Suspended", "False", "Resumed")
        draft.move("Pending")
