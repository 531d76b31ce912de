"""Judge an artifact by rows of a file: the numbers that a run finds for the same rows, loading the artifact alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.names import PREDICTIONS_FILE, REPORT_FILE
from finetune_trainer.checkpoint import sha256_of
from finetune_trainer.data.formats import files_of, read_rows
from finetune_trainer.data.schema import to_examples
from finetune_trainer.errors import DataError
from finetune_trainer.evaluations import TEST, Evaluated
from finetune_trainer.intervals import intervals
from finetune_trainer.judged import judged_rows, write_rows
from finetune_trainer.opening import Opened, open_artifact
from finetune_trainer.preparation import check_metrics, check_usable
from finetune_trainer.ready import Ready
from finetune_trainer.report.page import Subject, write_report
from finetune_trainer.tasks import TASKS
from finetune_trainer.tasks.base import rows_by_example


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked."""

    artifact: Path
    data: Path
    """A file, or a folder, as `data.test.uri` names it."""
    metrics: Sequence[str]
    """Those to tell; all of the task's when empty."""
    folder: Path
    """Where predictions and report are written."""
    base: str | None
    cache: Path


def evaluate(request: Request) -> dict[str, Any]:
    """Judge an artifact.

    Args:
        request: What is asked.

    Returns:
        The task, how many rows were judged, metrics with their intervals, and where predictions and report are.

    Raises:
        TrainerError: The artifact or a row cannot be used.
    """  # noqa: DOC503
    if not request.data.exists():
        raise DataError(f"{request.data}: there is no such file", remedy="Correct --data.")
    opened = open_artifact(request.artifact, request.base, request.cache)
    task, spec = opened.task, opened.kept.spec
    check_metrics(task, [("--metric", name) for name in request.metrics])
    rows = read_rows(request.data, cache=request.cache)
    ready = Ready(opened)
    examples, encoded = ready.encode(to_examples(rows, TASKS[spec.task].read, spec.data.fields))
    check_usable(request.data.name, len(examples), encoded, opened.kept.max_length)
    found = ready.judge.judge(ready.model, encoded)
    count = len(rows_by_example(found.examples))
    place, page = request.folder / PREDICTIONS_FILE, request.folder / REPORT_FILE
    write_rows(judged_rows(task, found), place, {"set": request.data.name, "rows": str(count)})
    subject = Subject(
        f"{request.artifact.resolve().name} on {request.data.name}",
        _about(request, opened),
        task,
        spec.training.seed,
        {TEST: Evaluated(0, found)},
        {TEST: encoded.table},
    )
    write_report(subject, page)
    spread, told = intervals(task, found, spec.training.seed)
    wanted = list(request.metrics or found.metrics)
    return {
        "task": spec.task,
        "rows": count,
        "metrics": {name: found.metrics[name] for name in wanted},
        "intervals": {name: list(spread[name]) for name in wanted if name in spread},
        "intervalsTold": told,
        "predictions": str(place),
        "report": str(page),
    }


def _about(request: Request, opened: Opened) -> list[tuple[str, str]]:
    files = [file for file, kind in files_of(request.data, "auto") if kind != "folder"]
    return [
        ("task", opened.kept.spec.task),
        ("artifact", str(request.artifact)),
        ("model", opened.base),
        ("method", opened.kept.spec.method.type),
        *(("data", f"{file}, sha256 {sha256_of(file)}") for file in files),
    ]
