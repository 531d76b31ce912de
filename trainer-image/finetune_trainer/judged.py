"""Judged rows as people read them: what went in, what is right, what the model says, and how wrong that is.

They are kept in `predictions.parquet`, which has the same columns for every task, and shown in the report.
"""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from finetune_trainer.data.schema import Example
from finetune_trainer.errors import StorageUnavailable
from finetune_trainer.evaluate import Found
from finetune_trainer.tasks.base import Answer, Asked, Predictions, Task, rows_by_example

MOST_ROWS = 20_000
"""Of a larger set the first ones are kept: a file for people and notebooks, tens of megabytes at most."""
MOST_CHARACTERS = 2000
_COUNTS = ("tokens", "words", "letters", "items", "pixels")
"""Predictions that say of how many elements a row's `loss` is the sum; without any it is one row's."""
_VECTOR = 8
"""Lists of more numbers are not for people."""


@runtime_checkable
class Showing(Protocol):
    """A task whose input is more than texts, conversations, images and sounds: words, choices, items."""

    def input_text(self, example: Example) -> str:
        """Return what the model is given of an example, as people read it."""
        ...


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """One row of the data; texts are cut at `MOST_CHARACTERS`."""

    example: Example
    at: int
    """The first of its rows in the table."""
    input: str
    expected: str
    predicted: str | None
    """In the form of `expected`; None when the answer has no such form, as a loss has none."""
    right: bool | None
    """Whether they are the same; None where that says nothing, as for numbers."""
    loss: float | None
    """In nats, per supervised element of the row."""
    answer: Answer | None
    """What `finetune predict` says of the row; None when the task cannot be asked."""


def judged_rows(task: Task, found: Found, most: int = MOST_ROWS) -> list[JudgedRow]:
    """Return a set's rows as people read them, each once, in the order of the set.

    Args:
        task: Whose rows they are.
        found: What the model says of the table's rows, of which an example may have several.
        most: Rows at most.

    Returns:
        The rows.
    """
    members = list(rows_by_example(found.examples).values())[:most]
    told = task.tell(found.predictions, found.examples) if isinstance(task, Asked) else None
    losses = _losses(found.predictions, members)
    rows: list[JudgedRow] = []
    for which, loss in zip(members, losses, strict=True):
        example, answer = found.examples[which[0]], told[which[0]] if told is not None else None
        predicted, right = (None, None) if answer is None else _compared(task, example, answer)
        rows.append(
            JudgedRow(
                example,
                which[0],
                _cut(_input_text(task, example)),
                _cut(task.label_text(example)),
                None if predicted is None else _cut(predicted),
                right,
                loss,
                answer,
            )
        )
    return rows


def worst(rows: Sequence[JudgedRow], most: int) -> list[JudgedRow]:
    """Return the rows with the highest loss; of tasks that tell right from wrong, wrong ones first."""
    known = [row for row in rows if row.loss is not None]
    return sorted(known, key=lambda row: (row.right is True, -(row.loss or 0.0)))[:most]


def write_rows(rows: Iterable[JudgedRow], place: Path, notes: Mapping[str, str]) -> None:
    """Write rows to a parquet file, aside first: there is no half of one.

    Args:
        rows: Rows of one set.
        place: The file; an older one is replaced.
        notes: Kept in the schema's metadata.

    Raises:
        StorageUnavailable: It cannot be written.
    """
    import pyarrow as pa  # noqa: PLC0415 - 0.2 s that runs without held-out rows do not need
    import pyarrow.parquet as pq  # noqa: PLC0415

    kept = list(rows)
    columns: Mapping[str, tuple[Any, list[Any]]] = {
        "file": (pa.string(), [_cut(row.example.row.file) for row in kept]),
        "row": (pa.int64(), [row.example.row.number for row in kept]),
        "input": (pa.string(), [row.input for row in kept]),
        "expected": (pa.string(), [row.expected for row in kept]),
        "predicted": (pa.string(), [row.predicted for row in kept]),
        "right": (pa.bool_(), [row.right for row in kept]),
        "loss": (pa.float64(), [row.loss for row in kept]),
        "prediction": (pa.string(), [row.answer and json.dumps(_short(row.answer)) for row in kept]),
    }
    schema = pa.schema([(name, kind) for name, (kind, _) in columns.items()], metadata=dict(notes))
    table = pa.table([pa.array(values, kind) for kind, values in columns.values()], schema=schema)
    aside = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, aside, compression="zstd")
        aside.replace(place)
    except OSError as error:
        raise StorageUnavailable(
            f"{place}: predictions cannot be written ({error})", remedy="Free space, or choose another place."
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def _losses(predictions: Predictions, members: Sequence[Sequence[int]]) -> list[float | None]:
    if "loss" not in predictions:
        return [None] * len(members)
    losses = predictions["loss"]
    counts = next((predictions[name] for name in _COUNTS if name in predictions), None)
    return [
        float(losses[list(which)].sum())
        / (len(which) if counts is None else max(1.0, float(counts[list(which)].sum())))
        for which in members
    ]


def _input_text(task: Task, example: Example) -> str:
    """Return what the model is given of a row, as text."""
    if isinstance(task, Showing):
        return task.input_text(example)
    turns = list(example.messages)
    if turns and turns[-1]["role"] == "assistant":
        turns.pop()
    parts = [f"{each['role']}: {each['content']}" for each in turns]
    parts += [f"[{name} {source.name}]" for name, source in example.media.items()]
    return "\n".join(each for each in (*parts, example.text, example.pair or "") if each)


def _compared(task: Task, example: Example, answer: Answer) -> tuple[str | None, bool | None]:
    """Return what the model says in the form in which the truth is told, and whether it is that."""
    expected = task.label_text(example)
    match answer:
        case {"vector": _}:
            return None, None
        case {"answer": text}:
            return text, text in example.parts or (not text and not example.parts)
        case {"tokens": tokens, "right": right}:
            return None, right == tokens
        case {"preferred": side}:
            better = side == "chosen" or example.rejected is None
            return task.label_text(example if better else example.rejected or example), better
        case _:
            told = _as_told(example, answer)
    if told is None:
        return None, None
    text = task.label_text(told)
    return text, None if "score" in answer and isinstance(told.label, float) else text == expected


def _as_told(example: Example, answer: Answer) -> Example | None:
    """Return the example with what the model says of it in place of what is right."""
    match answer:
        case {"choice": choice}:
            return replace(example, label=str(choice))
        case {"label": str(label)}:
            return replace(example, label=label)
        case {"labels": labels} | {"tags": labels}:
            return replace(example, label=tuple(labels))
        case {"ranking": [{"item": item}, *_]}:
            return replace(example, parts=(*example.parts[:-1], item))
        case {"text": text}:
            return replace(example, messages=(), completion=text)
        case {"score": float(score)} if isinstance(example.label, float):
            return replace(example, label=round(score, 4))
        case _:
            return None


def _short(value: Any) -> Any:
    """Return an answer without long lists of numbers."""
    if isinstance(value, Mapping):
        kept = {name: each for name, each in value.items() if not _is_vector(each)}
        return {name: _short(each) for name, each in kept.items()}
    return [_short(each) for each in value] if isinstance(value, list | tuple) else value


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and len(value) > _VECTOR and all(isinstance(each, float) for each in value)


def _cut(text: str) -> str:
    # What JSON can carry and UTF-8 cannot, as in names of files, is replaced.
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
