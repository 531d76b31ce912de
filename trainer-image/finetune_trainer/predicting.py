"""Answer the rows of a file by an artifact's model, read and batched as in an evaluation, in bounded memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from finetune_trainer.data.cells import put_back
from finetune_trainer.data.formats import Row, iterate_rows, read_rows
from finetune_trainer.data.schema import Columns, Read
from finetune_trainer.errors import ConfigError, DataError
from finetune_trainer.opening import Opened, open_artifact
from finetune_trainer.ready import Ready
from finetune_trainer.tasks.base import Answer, Asked, Batch, Encoded, Predictions, Responding
from finetune_trainer.writing import check_ending, write_answers

PREDICTION = "prediction"
_ROWS = 1024
"""Rows in memory at once; those of similar length among them share a pass."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked."""

    artifact: Path
    input: Path
    output: Path | None
    """A file ending in .jsonl or .parquet; standard output when None."""
    rows_at_once: int
    base: str | None
    cache: Path


def predict(request: Request, stream: TextIO) -> int:
    """Answer every row of a file.

    Args:
        request: What is asked.
        stream: Where answers go without an output file.

    Returns:
        How many rows were answered.

    Raises:
        TrainerError: The artifact or a row cannot be used; nothing is left at the output's place.
    """  # noqa: DOC503
    check_ending(request.output)
    if not request.input.exists():
        raise DataError(f"{request.input}: there is no such file", remedy="Correct --input.")
    answerer = Answerer(open_artifact(request.artifact, request.base, request.cache))
    return write_answers(answerer.chunks(request.input, request.rows_at_once), request.output, stream)


class Answerer:
    """Answers rows by one model."""

    def __init__(self, opened: Opened) -> None:
        """Get the model ready.

        Args:
            opened: The artifact.

        Raises:
            ConfigError: The task cannot be asked.
        """
        if not isinstance(opened.task, Asked):
            raise ConfigError(f"{opened.task.name} has no predictions", remedy="Use finetune eval to judge it.")
        self._opened, self._task = opened, opened.task
        self.ready = Ready(opened)

    def chunks(self, file: Path, size: int = _ROWS) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows of a file with their answers, `size` at once."""
        # Bytes in cells can be read from the cache when all rows were read; what is left of such rows is small.
        media = self._opened.processor.decoders
        rows = iter(read_rows(file, cache=self._opened.places.cache)) if media else iterate_rows(file)
        read: Read | None = None
        while part := list(islice(rows, size)):
            if read is None:
                fields = self._opened.kept.spec.data.fields
                read = self._task.ask(Columns(part[0].file, tuple(part[0].values), fields))
            answers = zip(part, self._answers(part, read), strict=True)
            yield [put_back(row.values) | {PREDICTION: each} for row, each in answers]

    def _answers(self, rows: Sequence[Row], read: Read) -> list[Answer]:
        for row in rows:
            if PREDICTION in row.values:
                row.refuse(f"there is a column {PREDICTION!r} already", "Rename it: answers are written there.")
        examples, encoded = self.ready.encode([read(row) for row in rows])
        for each in encoded.refused:
            each.example.row.refuse(each.reason, "Correct the row, or delete it.")
        found = self.ready.judge.every(self.ready.model, encoded.table, self._compute(encoded))
        told = self._task.tell(found, encoded.examples)
        by_example = {id(example): answer for example, answer in zip(encoded.examples, told, strict=True)}
        return [by_example[id(example)] for example in examples]

    def _compute(self, encoded: Encoded) -> Callable[[Any, Batch], Predictions]:
        task = self._opened.task
        if isinstance(task, Responding):
            return lambda model, batch: task.respond(model, encoded, batch.rows)
        return task.predict
