"""Why a job is in the state that it is in: reason, evidence, remedy. Pure.

The status is the operator's word and comes first; for what waits, the pods as they are now say it sooner. What they
mean is decided by the operator's own rules, `finetune_operator.diagnose`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetune_api.names import MANAGER
from finetune_cli.cluster_detail import progress_words
from finetune_cli.cluster_seen import Seen, evidence
from finetune_cli.cluster_words import attempt_of, checkpoint_words, clean_lines, holds, status_of
from finetune_operator.diagnose import diagnose, waiting
from finetune_operator.diagnose_text import clean
from finetune_operator.observe import Object, PodFacts, job_facts, pod_facts
from finetune_operator.status import condition


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why, in three parts."""

    state: str
    """One word, as in the column PHASE."""
    reason: str
    """One CamelCase word."""
    message: str
    evidence: tuple[str, ...]
    remedy: str

    def to_dict(self) -> dict[str, Any]:
        """Return it for programs."""
        parts = {"state": self.state, "reason": self.reason, "message": self.message}
        return {**parts, "evidence": list(self.evidence), "remedy": self.remedy}

    def lines(self) -> Iterator[str]:
        """Yield it for people."""
        yield self.state if self.state == self.reason else f"{self.state}: {self.reason}"
        yield from (f"  {line}" for line in clean_lines(self.message))
        for title, body in (("Evidence", self.evidence), ("Remedy", clean_lines(self.remedy))):
            if body:
                yield f"{title}:"
                yield from (f"  {line}" for line in body)


def explain(seen: Seen) -> Explanation:
    """Explain a job's state."""
    state, reason, message, remedy = _why(seen)
    return Explanation(state, reason, message, tuple(evidence(seen, message)), remedy)


def _why(seen: Seen) -> tuple[str, str, str, str]:
    """Return state, reason, message and remedy."""
    job, status = seen.job, status_of(seen.job)
    name, phase = job["metadata"]["name"], status.get("phase") or "Pending"
    if "deletionTimestamp" in job["metadata"]:
        held = ", ".join(job["metadata"].get("finalizers") or ()) or "its children"
        return "Deleting", "Deleting", f"it is being deleted; what remains: {held}", "Wait until it is gone."
    if holds(job, "Complete"):
        return "Complete", "Complete", _completed(job), ""
    failure = status.get("failure") or {}
    if holds(job, "Failed"):
        return "Failed", failure.get("reason", "Unknown"), failure.get("message", ""), failure.get("remedy", "")
    if job["spec"].get("suspend"):
        return _suspended(job, phase)
    ended = _ended_gang(seen, phase)
    if ended is not None:
        return ended
    if holds(job, "Running"):
        return _running(seen, name)
    if phase == "Restarting" and seen.child is None:
        message = f"attempt {attempt_of(job)} follows from {checkpoint_words(job)}; the last one ended:"
        return phase, failure["reason"], f"{message}\n{failure['message']}", failure.get("remedy", "")
    return _waits(seen)


def _completed(job: Object) -> str:
    result = status_of(job).get("result") or {}
    metrics = ", ".join(f"{name} {value}" for name, value in sorted((result.get("metrics") or {}).items()))
    artifact = (result.get("artifact") or {}).get("uri", "")
    parts = (metrics, f"artifact {clean(artifact)}" if artifact else "")
    return "; ".join(part for part in parts if part) or "it finished, and its trainer told no result"


def _suspended(job: Object, phase: str) -> tuple[str, str, str, str]:
    name = job["metadata"]["name"]
    remedy = f"Go on with: finetune resume {name}"
    if phase == "Suspended":
        return phase, "Suspended", f"spec.suspend is true; it goes on from {checkpoint_words(job)}", remedy
    return phase, "Suspending", "spec.suspend is true; its pods save a checkpoint and end", remedy


def _running(seen: Seen, name: str) -> tuple[str, str, str, str]:
    told = progress_words(status_of(seen.job).get("progress") or {}, seen.now)
    stale = condition(status_of(seen.job), "ProgressStale")
    if stale.get("status") == "True":
        message = "\n".join(filter(None, (stale["message"], f"the last word: {told}" if told else "")))
        return "Running", "ProgressStale", message, f"See what it does: finetune logs {name}"
    return "Running", "Running", told or "its pods run, and have told no progress yet", ""


def _ended_gang(seen: Seen, phase: str) -> tuple[str, str, str, str] | None:
    """Explain a gang that ends and of whose end the operator has not told yet."""
    if seen.child is None:
        return None
    facts = job_facts(seen.child)
    if facts.condition("Failed") is None and facts.condition("FailureTarget") is None:
        return None
    failure = diagnose(facts, _pods(seen))
    message = f"its pods end, and the operator has not told yet what follows:\n{failure.message}"
    return phase, failure.reason.value, message, failure.remedy


def _waits(seen: Seen) -> tuple[str, str, str, str]:
    """Explain a job whose pods do not run yet: what a queue, a quota, the scheduler or a node says."""
    status = status_of(seen.job)
    state = status.get("phase") or "Pending"
    running, admitted = condition(status, "Running"), condition(status, "Admitted")
    conflict = condition(status, "NameConflict")
    if conflict.get("status") == "True":
        return state, "NameConflict", conflict["message"], "Rename or delete the object that has the name."
    queue = (seen.job["spec"].get("scheduling") or {}).get("queue", "")
    if queue and seen.child is not None and seen.child["spec"].get("suspend"):
        says = f": {admitted['reason']}: {admitted['message']}" if admitted else ""
        remedy = f"It starts once the queue has room. See: kubectl describe localqueue {queue}"
        return state, "Queued", f"queue {queue} has not admitted it{says}", remedy
    if seen.pods:
        found = waiting(_pods(seen))
        return state, found.reason, found.message, found.remedy
    refused = [each for each in seen.events if each.get("reason") == "FailedCreate"]
    if running.get("reason") in {"QuotaExceeded", "Refused"} or refused:
        reason = running.get("reason") or "Refused"
        remedy = "Ask for less in spec.workers.resources, or have the quota or limit raised; it starts by itself then."
        return state, reason, running.get("message") or refused[-1]["message"], remedy
    if not status and seen.child is None and not seen.unread:
        remedy = (
            "Check that the operator runs and watches this namespace: "
            f"kubectl get pods -A -l app.kubernetes.io/name={MANAGER}"
        )
        return state, "NotSeen", "no operator has acted on it yet", remedy
    return state, running.get("reason", "Pending"), running.get("message", "its pods are being made"), ""


def _pods(seen: Seen) -> list[PodFacts]:
    return [pod_facts(each) for each in seen.pods]
