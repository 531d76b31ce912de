"""The status of a run on this machine, exactly as the operator writes it for a job on a cluster."""

from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api.progress import ProgressEvent
from finetune_api.result import Result
from finetune_api.status import (
    ArtifactStatus,
    CheckpointStatus,
    Condition,
    ConditionType,
    FailureStatus,
    FineTuneJobStatus,
    Progress,
    ResultStatus,
    decimal,
)


class StatusBuilder:
    """Collects events and turns them, with the result, into a status."""

    def __init__(self, started: datetime) -> None:
        """Start with nothing."""
        self._started = started
        self._progress: Progress | None = None
        self._saved_at: str | None = None
        self._resolved: dict[str, str] = {}

    def add(self, event: ProgressEvent) -> None:
        """Take one event into account."""
        data: dict[str, Any] = dict(event.data)
        if event.kind == "decision":
            self._resolved[str(data["name"])] = f"{data['value']} ({data['reason']})"[:512]
        elif event.kind == "checkpoint":
            self._saved_at = event.at
        elif event.kind == "progress":
            self._progress = _progress(event.at, data)

    def status(self, result: Result, now: datetime) -> FineTuneJobStatus:
        """Return the status after a run's end."""
        return FineTuneJobStatus(
            phase=result.outcome,
            conditions=_conditions(result, _time(now)),
            attempt=1,
            start_time=_time(self._started),
            completion_time=_time(now) if result.outcome != "Interrupted" else None,
            progress=self._progress,
            checkpoint=CheckpointStatus(step=result.checkpoint.step, saved_at=self._saved_at, verified=False)
            if result.checkpoint
            else None,
            resolved=self._resolved,
            result=_result(result),
            failure=FailureStatus.model_validate(result.failure.model_dump()) if result.failure else None,
        )


def _progress(at: str, data: dict[str, Any]) -> Progress:
    eta = datetime.fromisoformat(at) + timedelta(seconds=float(data["etaSeconds"] or 0.0))
    step, steps, percent = int(data["step"]), int(data["maxSteps"]), int(data["percent"])
    return Progress(
        step=step,
        max_steps=steps,
        epoch=decimal(data["epoch"]),
        percent=percent,
        samples_per_second=decimal(data["samplesPerSecond"]),
        loss=None if data["loss"] is None else decimal(data["loss"]),
        eta=_time(eta),
        display=f"{step}/{steps} ({percent}%)",
        updated_at=at,
    )


def _result(result: Result) -> ResultStatus | None:
    if not result.metrics and result.artifact is None:
        return None
    return ResultStatus(
        metrics={name: decimal(value) for name, value in result.metrics.items()},
        artifact=ArtifactStatus(**result.artifact.model_dump()) if result.artifact else None,
    )


def _conditions(result: Result, at: str) -> list[Condition]:
    complete = result.outcome == "Complete"
    failed = result.outcome == "Failed"
    reason = result.failure.reason.value if result.failure else result.outcome
    message = result.failure.message if result.failure else ""
    found: list[tuple[ConditionType, bool, str, str]] = [
        ("Accepted", True, "Valid", ""),
        ("Running", False, reason, ""),
        ("Evaluated", bool(result.metrics), "Judged" if result.metrics else "NotJudged", ""),
        ("Complete", complete, reason, ""),
        ("Failed", failed, reason, message),
        ("Finished", complete or failed, reason, ""),
    ]
    return [
        Condition(type=kind, status="True" if holds else "False", reason=why, message=text, last_transition_time=at)
        for kind, holds, why, text in found
    ]


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
