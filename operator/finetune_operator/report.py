"""From what the trainer reports to the parts of a status; the command and the operator write the same."""

from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api.progress import ProgressEvent
from finetune_api.result import Result
from finetune_api.status import MAX_TEXT, ArtifactStatus, CheckpointStatus, Progress, ResultStatus, decimal

_MAX_DECISION = 512
_MAX_DECISIONS = 60


class Report:
    """The newest events of a job, as parts of its status in wire form."""

    __slots__ = ("_resolved", "parts")

    def __init__(self) -> None:
        """Start with nothing."""
        self.parts: dict[str, Any] = {}
        self._resolved: dict[str, str] = {}

    def add(self, event: ProgressEvent) -> bool:
        """Take one event into account; return whether the status changes by it."""
        data: dict[str, Any] = dict(event.data)
        if event.kind == "decision" and len(self._resolved) < _MAX_DECISIONS:
            self._resolved[str(data["name"])] = f"{data['value']} ({data['reason']})"[:_MAX_DECISION]
            self.parts["resolved"] = dict(self._resolved)
        elif event.kind == "checkpoint":
            saved = CheckpointStatus(step=int(data["step"]), saved_at=event.at, verified=bool(data.get("verified")))
            self.parts["checkpoint"] = saved.to_dict()
        elif event.kind == "progress":
            self.parts["progress"] = progress_status(event.at, data).to_dict()
        else:
            return False
        return True


def progress_status(at: str, data: dict[str, Any]) -> Progress:
    """Return how far training is, from the data of a progress event and its time."""
    eta = datetime.fromisoformat(at) + timedelta(seconds=float(data["etaSeconds"] or 0.0))
    step, steps, percent = int(data["step"]), int(data["maxSteps"]), int(data["percent"])
    return Progress(
        step=step,
        max_steps=steps,
        epoch=decimal(data["epoch"]),
        percent=percent,
        samples_per_second=decimal(data["samplesPerSecond"]),
        loss=None if data["loss"] is None else decimal(data["loss"]),
        eta=eta.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        display=f"{step}/{steps} ({percent}%)",
        updated_at=at,
    )


def result_status(result: Result) -> ResultStatus | None:
    """Return what came out of a run; None when nothing did."""
    if not result.metrics and result.artifact is None:
        return None
    return ResultStatus(
        metrics={name: decimal(value) for name, value in result.metrics.items()},
        artifact=ArtifactStatus(**result.artifact.model_dump()) if result.artifact else None,
        report=result.report if result.report and len(result.report) <= MAX_TEXT else None,
    )
