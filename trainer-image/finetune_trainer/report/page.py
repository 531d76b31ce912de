"""What a report tells: metrics with intervals, curves, confusions, the worst rows, and rows as pictures and texts."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_trainer.data.table import TokenTable
from finetune_trainer.errors import StorageUnavailable
from finetune_trainer.evaluations import BASE, TEST, VALIDATION, Evaluated
from finetune_trainer.history import History
from finetune_trainer.intervals import intervals
from finetune_trainer.judged import JudgedRow, judged_rows, worst
from finetune_trainer.report.drawing import confusions, curves, matrix, scatter
from finetune_trainer.report.pictures import data_uri, spectrogram, spectrogram_uri
from finetune_trainer.tasks.base import Task, rows_by_example

_WORST, _SAMPLES, _IMAGES, _SOUNDS = 20, 8, 24, 8
_SHOWN_CHARACTERS = 600
_TEMPLATE = Path(__file__).with_name("page.html.jinja")


@dataclass(frozen=True, slots=True)
class Subject:
    """What a report is about."""

    title: str
    about: Sequence[tuple[str, str]]
    """What else to tell in the head, by name."""
    task: Task
    seed: int
    sets: Mapping[str, Evaluated]
    """The sets that were judged; the details are of test rows, else of validation rows."""
    tables: Mapping[str, TokenTable]
    """Those of the same sets, with their images and sounds."""
    history: History = field(default_factory=History)
    samples: Sequence[tuple[str, str, str]] = ()
    """Texts written for some rows: input, what was expected, what was written."""


def write_report(subject: Subject, place: Path) -> None:
    """Write a report, aside first.

    Args:
        subject: What it is about; at least one set was judged.
        place: Its file.

    Raises:
        StorageUnavailable: It cannot be written.
    """
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - 0.1 s that other runs do not need

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(**_document(subject))
    aside = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8", errors="replace")
        aside.replace(place)
    except OSError as error:
        raise StorageUnavailable(
            f"{place}: the report cannot be written ({error})", remedy="Free space, or choose another place."
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def _document(subject: Subject) -> Mapping[str, Any]:
    name = next(each for each in (TEST, VALIDATION, BASE) if each in subject.sets)
    rows = judged_rows(subject.task, subject.sets[name].found)
    errors = worst(rows, _WORST)
    return {
        "title": subject.title,
        "about": subject.about,
        **_metrics(subject),
        **_curves(subject.history),
        "set": name,
        "rows": len(rows),
        **_labels(rows),
        "scatter": scatter(_numbers(rows), "expected, from left to right; predicted, upwards"),
        "worst": [_texts(row) for row in errors],
        "images": _images(rows, errors, subject.tables[name]) if name in subject.tables else [],
        "sounds": _sounds(rows, errors, subject.tables[name]) if name in subject.tables else [],
        "samples": subject.samples or _written(rows),
    }


def _metrics(subject: Subject) -> Mapping[str, Any]:
    """Return the table of metrics: one column per set, with intervals, and how these were found."""
    sets = {name: each.found for name, each in subject.sets.items()}
    spread = {name: intervals(subject.task, found, subject.seed) for name, found in sets.items()}
    names = [each for each in subject.task.metric_names if any(each in found.metrics for found in sets.values())]
    cells = [
        (metric, [(found.metrics.get(metric), spread[name][0].get(metric)) for name, found in sets.items()])
        for metric in names
    ]
    heads = [
        f"{'untrained model' if name == BASE else name}, {len(rows_by_example(found.examples))} rows"
        for name, found in sets.items()
    ]
    return {"sets": heads, "metrics": cells, "notes": sorted({why for _, why in spread.values()})}


def _curves(history: History) -> Mapping[str, Any]:
    """Return the losses in one picture, and every validation metric in one of its own."""
    watched = dict(history.metrics.get(VALIDATION, {}))
    losses = {"training": history.losses, VALIDATION: watched.pop("loss", ())}
    drawn = [(name, curves({name: points}, "step")) for name, points in watched.items()]
    return {"losses": curves(losses, "step"), "curves": [each for each in drawn if each[1]]}


def _labels(rows: Sequence[JudgedRow]) -> Mapping[str, Any]:
    """Return which labels were taken for which, where a row has one label."""
    pairs = [
        (row.expected, row.predicted)
        for row in rows
        if row.predicted is not None and row.answer is not None and isinstance(row.answer.get("label"), str)
    ]
    return {"matrix": matrix(pairs), "confusions": confusions(pairs)}


def _numbers(rows: Sequence[JudgedRow]) -> list[tuple[float, float]]:
    """Return (right, told) where both are numbers."""
    return [
        (row.example.label, float(row.answer["score"]))
        for row in rows
        if isinstance(row.example.label, float) and row.predicted is not None and row.answer is not None
    ]


def _texts(row: JudgedRow) -> Mapping[str, Any]:
    """Return a row as texts that are short enough to be read in a table."""
    texts = {"input": row.input, "expected": row.expected, "predicted": row.predicted or _compact(row)}
    return {"place": row.example.place, "loss": row.loss, "right": row.right} | {
        name: text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
        for name, text in texts.items()
    }


def _compact(row: JudgedRow) -> str:
    answer = row.answer or {}
    return ", ".join(f"{name} {value:.4g}" for name, value in answer.items() if isinstance(value, int | float))


def _written(rows: Sequence[JudgedRow]) -> Sequence[tuple[str, str, str]]:
    """Return the first rows for which the model wrote a text."""
    texts = [_texts(row) for row in rows[:_SAMPLES] if row.answer is not None and "text" in row.answer]
    return [(each["input"], each["expected"], each["predicted"]) for each in texts]


def _images(rows: Sequence[JudgedRow], errors: Sequence[JudgedRow], table: TokenTable) -> list[Mapping[str, Any]]:
    """Return the worst rows and the first ones as thumbnails."""
    if "image" not in table.media:
        return []
    return [
        {"uri": data_uri(table.media["image"].decoded(row.at)), **_texts(row)}
        for row in _both(errors, rows, _IMAGES)
        if "image" in row.example.media
    ]


def _sounds(rows: Sequence[JudgedRow], errors: Sequence[JudgedRow], table: TokenTable) -> list[Mapping[str, Any]]:
    """Return the worst rows and the first ones as spectrograms."""
    if "audio" not in table.media:
        return []
    return [
        {"uri": spectrogram_uri(spectrogram(table.media["audio"].decoded(row.at))), **_texts(row)}
        for row in _both(errors, rows, _SOUNDS)
        if "audio" in row.example.media
    ]


def _both(errors: Sequence[JudgedRow], rows: Sequence[JudgedRow], most: int) -> list[JudgedRow]:
    """Return half of the worst rows, then the first others."""
    first = list(errors[: most // 2])
    shown = {row.at for row in first}
    return first + [row for row in rows[: 2 * most] if row.at not in shown][: most - len(first)]
