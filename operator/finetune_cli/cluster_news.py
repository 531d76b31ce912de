"""What changed between two looks at a job, as the events that a run on this machine shows. Pure."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from finetune_api.progress import ProgressEvent
from finetune_api.result import ArtifactRef, CheckpointRef, Failure, Result
from finetune_api.status import FineTuneJobStatus
from finetune_operator.status import condition

Status = Mapping[str, Any]
_FINISHED = frozenset({"Complete", "Failed"})


def news(before: Status, after: Status, at: str) -> Iterator[ProgressEvent]:
    """Yield what is new since the status that was shown, empty for none; `at` is now, RFC 3339."""
    attempt = after.get("attempt", 1)
    if attempt > max(1, before.get("attempt", 1)):
        yield _told("warning", at, f"attempt {attempt} follows: {_end(after)}")
    place = _place(after)
    if place and place != _place(before) and after.get("phase") not in _FINISHED:
        yield _told("phase", at, place)
    known = before.get("resolved") or {}
    for name, text in (after.get("resolved") or {}).items():
        if known.get(name) != text:
            yield _told("decision", at, f"{name}: {text}", name=name, value=text, reason="")
    if after.get("progress") and after["progress"] != before.get("progress"):
        yield _progress(after["progress"], at)
    saved = after.get("checkpoint") or {}
    if saved and saved.get("step") != (before.get("checkpoint") or {}).get("step"):
        yield _told("checkpoint", saved.get("savedAt") or at, f"step {saved['step']} saved", step=saved["step"])
    stale = condition(after, "ProgressStale")
    if stale.get("status") == "True" and condition(before, "ProgressStale").get("status") != "True":
        yield _told("warning", at, stale.get("message", ""))


def result_of(status: Status) -> Result:
    """Return how a finished job ended, in the form in which a run on this machine tells it."""
    failure, result = status.get("failure"), status.get("result") or {}
    progress, saved = status.get("progress") or {}, status.get("checkpoint")
    failed = condition(status, "Failed").get("status") == "True"
    return Result(
        outcome="Failed" if failed else "Complete",
        step=(saved or {}).get("step") or progress.get("step", 0),
        max_steps=progress.get("maxSteps", 0),
        metrics={name: float(value) for name, value in (result.get("metrics") or {}).items()},
        artifact=ArtifactRef.model_validate(result["artifact"], extra="ignore") if result.get("artifact") else None,
        failure=Failure.model_validate(failure, extra="ignore") if failed else None,
        checkpoint=CheckpointRef(step=saved["step"], path="") if saved else None,
    )


def whole_status(status: Status) -> FineTuneJobStatus:
    """Return a status as a value; what a newer operator tells beyond the contract of this command is left out."""
    return FineTuneJobStatus.model_validate_json(json.dumps(status), extra="ignore")


def _place(status: Status) -> str:
    """Return where a job stands, as one line; empty before anything is known."""
    phase = status.get("phase", "")
    running = condition(status, "Running")
    if not phase or running.get("status") == "True":
        return phase
    admitted = condition(status, "Admitted")
    said = admitted if running.get("reason") == "Queued" and admitted.get("message") else running
    return f"{phase}: {running.get('reason', '')}: {said.get('message', '')}".rstrip(": ")


def _end(status: Status) -> str:
    failure = status.get("failure") or {}
    return f"{failure.get('reason', 'resumed')}: {failure.get('message', '')}".rstrip(": ")


def _progress(progress: Mapping[str, Any], at: str) -> ProgressEvent:
    told_at = progress.get("updatedAt") or at
    left_s = 0.0
    if progress.get("eta"):
        left_s = (datetime.fromisoformat(progress["eta"]) - datetime.fromisoformat(told_at)).total_seconds()
    loss, speed = progress.get("loss"), progress.get("samplesPerSecond")
    return _told(
        "progress",
        told_at,
        progress.get("display", ""),
        step=progress["step"],
        maxSteps=progress["maxSteps"],
        percent=progress.get("percent", 0),
        epoch=float(progress.get("epoch") or 0),
        loss=None if loss is None else float(loss),
        samplesPerSecond=float(speed or 0),
        etaSeconds=max(0.0, left_s),
    )


def _told(kind: Any, at: str, message: str, **data: Any) -> ProgressEvent:
    return ProgressEvent(kind=kind, at=at, message=message, data=data)
