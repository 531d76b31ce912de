"""One look at a job, and what of it is evidence: conditions, exit codes, pods, termination messages, events. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from finetune_api.exit_codes import Disposition, Reason, disposition
from finetune_cli.cluster_words import attempt_of, holds, status_of, when
from finetune_operator.diagnose_exits import read_result
from finetune_operator.diagnose_text import clean
from finetune_operator.observe import Object, PodFacts, job_facts, pod_facts

_EVENTS_TOLD: Final = 5
_PODS_TOLD: Final = 8
_QUIET: Final = frozenset({"Accepted", "Evaluated", "Finished"})
"""Conditions that explain nothing by themselves."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a job."""

    job: Object
    child: Object | None
    """The batch Job of the attempt that it is at."""
    pods: tuple[Object, ...]
    """The pods of that Job."""
    events: tuple[Object, ...]
    """About the job, its Job and its first pods, oldest first."""
    now: datetime
    """The API server's time."""
    unread: tuple[str, ...] = ()
    """What could not be read, and why."""


def evidence(seen: Seen, message: str) -> Iterator[str]:
    """Yield what shows why a job is where it is; what `message` says already is not said again."""
    status = status_of(seen.job)
    for each in status.get("conditions") or ():
        if each["type"] in _QUIET:
            continue
        said = clean(each.get("message", ""))
        more = f": {said}" if _is_news(said, message) else ""
        since = when(each["lastTransitionTime"], seen.now)
        yield f"condition {each['type']}={each['status']}, reason {clean(each['reason'])}, since {since}{more}"
    failure = status.get("failure")
    # Limits and images that do not come end a job without the end of any process.
    if failure and "rank" in failure and disposition(Reason(failure["reason"])) is not Disposition.LIMIT:
        yield f"exit code {failure['exitCode']} of rank {failure['rank']}"
    yield from _gang(seen)
    # The operator's own events repeat its words; those of others show where these come from.
    events = [each for each in seen.events if not _is_own(each, seen) or _is_news(each.get("message") or "", message)]
    warnings = [each for each in events if each.get("type") == "Warning"]
    for event in (warnings or events)[-_EVENTS_TOLD:]:
        yield _event(event, seen)
    yield from (f"left out: {each}" for each in seen.unread)


def _is_news(said: str, message: str) -> bool:
    """Tell whether something adds to a message: neither is part of the other."""
    known, said = clean(message), clean(said)
    return bool(said) and said not in known and (not known or known not in said)


def _gang(seen: Seen) -> Iterator[str]:
    if seen.child is not None:
        facts = job_facts(seen.child)
        state = ", ".join(f"{each.type} ({each.reason})" for each in facts.conditions) or "no end"
        ready = "" if facts.ended else f"{facts.ready} of {facts.nodes} pods ready, "
        yield f"Job {facts.name}: {ready}{state}"
    elif status_of(seen.job) and not holds(seen.job, "Finished"):
        yield f"no Job of attempt {attempt_of(seen.job)} exists"
    pods = [pod_facts(each) for each in seen.pods]
    yield from map(_pod, pods[:_PODS_TOLD])
    if len(pods) > _PODS_TOLD:
        yield f"and {len(pods) - _PODS_TOLD} pods more"


def _pod(pod: PodFacts) -> str:
    """Describe a pod: where it is, how its trainer is, and what that left behind."""
    node = f" on {pod.node}" if pod.node else ""
    trainer = pod.trainer
    parts = [f"pod {pod.name} (rank {pod.index}){node}: {pod.reason or pod.phase}"]
    parts += ["being deleted"] if pod.deleting else []
    if trainer is not None and trainer.state:
        code = f" with exit code {trainer.exit_code}" if trainer.exit_code is not None else ""
        parts.append(f"trainer {trainer.state}{code}" + (f" ({clean(trainer.reason)})" if trainer.reason else ""))
        result = read_result(trainer)
        if result is not None:
            reason = f" {result.failure.reason.value}" if result.failure else ""
            parts.append(f"termination message: {result.outcome}{reason} at step {result.step}")
        elif trainer.message:
            parts.append(f"it says: {clean(trainer.message, keep_end=True)}")
    return ", ".join(parts)


def _event(event: Object, seen: Seen) -> str:
    about = event["involvedObject"]
    times = f"{event['count']}x, " if (event.get("count") or 1) > 1 else ""
    where = "" if _is_own(event, seen) else f" about {about['kind']} {about['name']}"
    at = when(event_time(event), seen.now)
    return f"event {event.get('reason')}{where}, {times}{at}: {clean(event.get('message') or '')}"


def _is_own(event: Object, seen: Seen) -> bool:
    return event["involvedObject"].get("uid") == seen.job["metadata"]["uid"]


def event_time(event: Object) -> str:
    """Return when an event was last seen, RFC 3339."""
    last = (event.get("series") or {}).get("lastObservedTime")
    return last or event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"]
