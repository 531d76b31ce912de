"""The status of a run on this machine, exactly as the operator writes it for a job on a cluster."""

from datetime import UTC, datetime

from finetune_api.progress import ProgressEvent
from finetune_api.result import Result
from finetune_api.status import (
    CheckpointStatus,
    Condition,
    ConditionType,
    FailureStatus,
    FineTuneJobStatus,
    Progress,
)
from finetune_operator.report import Report, result_status


class StatusBuilder:
    """Collects events and turns them, with the result, into a status."""

    def __init__(self, started: datetime) -> None:
        """Start with nothing."""
        self._started = started
        self._report = Report()

    def add(self, event: ProgressEvent) -> None:
        """Take one event into account."""
        self._report.add(event)

    def status(self, result: Result, now: datetime) -> FineTuneJobStatus:
        """Return the status after a run's end."""
        parts = self._report.parts
        saved_at = (parts.get("checkpoint") or {}).get("savedAt")
        return FineTuneJobStatus(
            phase=result.outcome,
            conditions=_conditions(result, _time(now)),
            attempt=1,
            start_time=_time(self._started),
            completion_time=_time(now) if result.outcome != "Interrupted" else None,
            progress=Progress.model_validate(parts["progress"]) if "progress" in parts else None,
            checkpoint=CheckpointStatus(step=result.checkpoint.step, saved_at=saved_at, verified=False)
            if result.checkpoint
            else None,
            resolved=parts.get("resolved", {}),
            result=result_status(result),
            failure=FailureStatus.model_validate(result.failure.model_dump()) if result.failure else None,
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
