"""What follows an end: the job is over, or another attempt is worth it. Pure; the policy of the closed list of reasons.

A retryable reason is followed by the next attempt from the newest valid checkpoint. Preemption and eviction are
nobody's fault and are not counted against restarts.limit; memory that ran out halves the micro-batch, never the global
batch; an end that nobody can explain is tried once more and no oftener.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from finetune_api.exit_codes import Disposition, Reason, disposition
from finetune_api.result import Failure, Result
from finetune_operator.observe import JobFacts
from finetune_operator.report import result_status
from finetune_operator.settings import Settings
from finetune_operator.status import rfc3339
from finetune_operator.view import Decision, View

_UNCOUNTED = frozenset({Reason.PREEMPTED, Reason.EVICTED})
MICRO_BATCH = "microBatchLimit"
"""Key in status.resolved: the micro-batch that later attempts may not exceed."""
_NUMBER = re.compile(r"^\d{1,9}")


def complete(decision: Decision, result: Result | None, view: View) -> Decision:
    """Finish a job whose gang succeeded; without its result the status says so instead of inventing one."""
    draft = decision.draft
    draft.set("Accepted", "True", "Valid")
    draft.value.setdefault("attempt", draft.attempt)
    draft.value.setdefault("startTime", rfc3339(view.now))
    told = result_status(result) if result else None
    if told is not None:
        draft.value["result"] = told.to_dict()
    if result is not None and result.checkpoint is not None:
        saved = {"step": result.checkpoint.step, "verified": False}
        draft.value["checkpoint"] = (draft.value.get("checkpoint") or {}) | saved
    draft.stop_running("Complete")
    if told is not None and told.metrics:
        draft.set("Evaluated", "True", "Judged")
    else:
        missing = "the gang succeeded, but its result could not be read" if result is None else ""
        draft.set("Evaluated", "Unknown" if result is None else "False", "NotJudged", missing)
    draft.set("Complete", "True", "Complete")
    draft.set("Finished", "True", "Complete")
    draft.value.pop("failure", None)
    _close(decision, view)
    draft.move("Complete")
    return decision


def fail(decision: Decision, failure: Failure, view: View, *, accepted: bool = True) -> Decision:
    """Finish a job that failed for good."""
    draft = decision.draft
    reason = failure.reason.value
    draft.set("Accepted", "True" if accepted else "False", "Valid" if accepted else reason)
    draft.stop_running(reason)
    draft.set("Failed", "True", reason, failure.message)
    draft.set("Finished", "True", reason)
    _tell_failure(decision, failure)
    _close(decision, view)
    draft.move("Failed")
    decision.events.append(("Warning", reason, f"{failure.message} {failure.remedy}".strip()))
    return decision


def stop(decision: Decision, job: JobFacts | None, failure: Failure, view: View) -> Decision:
    """Fail at once and end the gang; the status is written first, so that a crash in between cannot lose the reason."""
    if job is not None and not job.deleting:
        decision.delete.append(job)
    return fail(decision, failure, view)


def after_failure(decision: Decision, failure: Failure, view: View, settings: Settings) -> Decision:
    """Decide by the reason whether an attempt's end is the job's."""
    kind = disposition(failure.reason)
    if kind in {Disposition.USER_MUST_FIX, Disposition.LIMIT}:
        return fail(decision, failure, view)
    previous = (decision.draft.value.get("failure") or {}).get("reason")
    if failure.reason == Reason.UNKNOWN == previous:
        message = f"{failure.message} It is the second end in a row that nothing explains."
        return fail(decision, failure.model_copy(update={"message": message, "retryable": False}), view)
    if kind == Disposition.ADAPT_AND_RETRY and not _adapt(decision, failure, view):
        message = f"{failure.message} A micro-batch of one sample is the least there is."
        return fail(decision, failure.model_copy(update={"message": message, "retryable": False}), view)
    return restart(decision, failure, view, settings, counted=failure.reason not in _UNCOUNTED)


def restart(decision: Decision, failure: Failure, view: View, settings: Settings, *, counted: bool) -> Decision:
    """Begin the next attempt; its number is written before its Job is posted."""
    draft = decision.draft
    limit = (view.spec.get("restarts") or {}).get("limit", 5)
    restarts = draft.value.get("restarts", 0) + counted
    if restarts > limit:
        message = (
            f"spec.restarts.limit: {limit} restarts were not enough; the last end: {failure.reason}: {failure.message}"
        )
        return fail(decision, Failure.of(Reason.RESTART_LIMIT_EXCEEDED, message, failure.remedy, failure.rank), view)
    draft.value["restarts"] = restarts
    draft.value["attempt"] = draft.attempt + 1
    draft.value["restartTime"] = rfc3339(view.now)
    draft.set("Accepted", "True", "Valid")
    draft.stop_running(failure.reason.value, failure.message)
    _tell_failure(decision, failure)
    draft.move("Restarting")
    wait_s = backoff_s(restarts, view.uid, settings)
    decision.wake(view.now + timedelta(seconds=wait_s))
    told = f"attempt {draft.attempt} follows in {wait_s:.0f} s: {failure.message}"
    decision.events.append(("Warning", failure.reason.value, told))
    return decision


def backoff_s(restarts: int, uid: str, settings: Settings) -> float:
    """Return the wait before an attempt: doubled each time, with a jitter that a crash does not draw anew."""
    if restarts == 0:
        return 0.0
    whole = min(settings.restart_backoff_limit_s, settings.restart_backoff_s * 2 ** min(restarts - 1, 20))
    draw = hashlib.sha256(f"{uid}/{restarts}".encode()).digest()[0] / 255
    return whole * (0.75 + 0.25 * draw)


def micro_batch_limit(status: Mapping[str, Any]) -> int | None:
    """Return the micro-batch that attempts may not exceed; None for no limit."""
    return _leading_number((status.get("resolved") or {}).get(MICRO_BATCH, ""))


def _adapt(decision: Decision, failure: Failure, view: View) -> bool:
    """Halve the micro-batch; return whether there was anything to halve."""
    resolved = dict(decision.draft.value.get("resolved") or {}) | (view.memory.report.parts.get("resolved") or {})
    used = _leading_number(resolved.get(MICRO_BATCH, "")) or _leading_number(resolved.get("microBatch", ""))
    if used is None:
        processes = (view.spec.get("workers") or {}).get("nodes", 1)
        used = max(1, (view.spec.get("training") or {}).get("batchSize", 32) // processes)
    if used <= 1:
        return False
    half = (used + 1) // 2
    resolved[MICRO_BATCH] = f"{half} (half of {used} after {failure.reason.value}; the global batch stays the same)"
    decision.draft.value["resolved"] = resolved
    decision.events.append(("Normal", "MicroBatchHalved", f"micro-batch {used} -> {half} after {failure.reason.value}"))
    return True


def _leading_number(text: str) -> int | None:
    found = _NUMBER.match(text)
    return int(found[0]) if found else None


def _tell_failure(decision: Decision, failure: Failure) -> None:
    decision.draft.value["failure"] = failure.to_dict()


def _close(decision: Decision, view: View) -> None:
    decision.draft.value["completionTime"] = rfc3339(view.now)
    ttl_s = view.spec.get("ttlSecondsAfterFinished")
    if ttl_s is not None:
        decision.wake(view.now + timedelta(seconds=ttl_s))
