"""Find out which column plays which role, and read values from rows.

A role is taken from `data.fields`, else detected from the usual column names. Each task turns rows into examples with
these parts (`read` in its module). What is wrong with a row is said before any model is loaded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_trainer.data.formats import MAX_TEXT_BYTES, Row
from finetune_trainer.errors import DataError

_ALIASES: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "sentence", "sentence1", "premise", "review", "content", "document", "article", "question1"),
    "textPair": ("text_pair", "textPair", "sentence2", "hypothesis", "question2"),
    "label": ("label", "labels", "sentiment", "category", "class", "target", "score", "rating"),
    "prompt": ("prompt", "instruction", "question"),
    "completion": ("completion", "output", "response", "answer"),
    "transcript": ("transcript", "transcription", "text", "sentence"),
    "messages": ("messages", "conversations", "conversation"),
    "tokens": ("tokens", "words"),
    "tags": ("tags", "ner_tags", "pos_tags", "labels"),
    "context": ("context", "passage", "paragraph"),
    "question": ("question", "query"),
    "answers": ("answers", "answer"),
    "source": ("source", "src", "input"),
    "target": ("target", "tgt", "translation", "output"),
    "summary": ("summary", "highlights", "abstract", "synopsis"),
    "choices": ("choices", "options", "endings"),
    "chosen": ("chosen", "preferred"),
    "rejected": ("rejected", "dispreferred"),
    "image": ("image", "img", "image_path", "file_name", "path"),
    "caption": ("caption", "text", "sentence", "description"),
    "classPrompt": ("class_prompt", "classPrompt"),
    "objects": ("objects", "annotations"),
    "mask": ("mask", "annotation", "segmentation", "segmentation_mask", "label"),
    "audio": ("audio", "sound", "audio_path", "audio_filepath", "file_name", "path"),
}


@dataclass(frozen=True, slots=True)
class Source:
    """The encoded bytes of one image or sound: a file, or a piece of one."""

    file: Path
    name: str
    """What the data calls it."""
    place: str
    """File and row that name it, for messages."""
    start: int = 0
    size: int = -1
    """Bytes of the piece; -1 for the whole file."""
    sha256: str = ""
    shape: tuple[int, ...] = ()
    """Of the decoded array; known, with the sha256, once it was looked at."""
    values: tuple[int, ...] = ()
    """The class numbers of a mask, known at the same time."""

    def read(self) -> bytes:
        """Return the bytes."""
        with self.file.open("rb") as stream:
            stream.seek(self.start)
            return stream.read(self.size)


@dataclass(frozen=True, slots=True)
class Region:
    """A box in an image, in its pixels, and what is in it."""

    left: float
    top: float
    width: float
    height: float
    label: str
    crowd: bool = False
    """It holds many of them: nothing is learned from it, and finding some in it is no error."""


@dataclass(frozen=True, slots=True)
class Example:
    """What one row says, in the form that its task reads; exactly the parts that the task needs are set."""

    row: Row
    text: str = ""
    pair: str | None = None
    label: str | float | tuple[str, ...] | None = None
    messages: tuple[dict[str, str], ...] = ()
    completion: str | None = None
    parts: tuple[str, ...] = ()
    """The words of a sentence, the choices of a question, the answers that are right, the items of a history."""
    starts: tuple[int, ...] = ()
    """Where each answer begins in the text."""
    rejected: "Example | None" = None
    """The same with a worse completion."""
    regions: tuple[Region, ...] = ()
    """The objects of an image."""
    media: Mapping[str, Source] = field(default_factory=dict[str, Source])
    """Images and sounds by role: `image`, `mask`, `audio`; a role that a row lacks is left out."""

    @property
    def place(self) -> str:
        """File and row, for messages."""
        return self.row.place


Read = Callable[[Row], Example]


def to_examples(rows: Sequence[Row], reader: Callable[["Columns"], Read], fields: Mapping[str, str]) -> list[Example]:
    """Turn rows into examples.

    Args:
        rows: At least one row.
        reader: The task's, from columns to what reads one row.
        fields: Roles mapped to columns; others are detected.

    Returns:
        One example per row, in the same order.

    Raises:
        DataError: A column is missing or a value cannot play its role; file, row and remedy are named.
    """  # noqa: DOC502
    read = reader(Columns(rows[0].file, tuple(rows[0].values), fields))
    return [read(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a file, and which of them the manifest gave a role."""

    file: str
    names: tuple[str, ...]
    fields: Mapping[str, str]

    def find(self, role: str) -> str | None:
        """Return the column of a role, None when there is none.

        Args:
            role: Key of `data.fields`.

        Returns:
            The column's name.

        Raises:
            DataError: The manifest names a column that does not exist.
        """
        if role in self.fields:
            column = self.fields[role]
            if column not in self.names:
                raise DataError(
                    f"{self.file}: data.fields.{role} names the column {column!r}, found {self.listed()}",
                    remedy="Name a column that the file has.",
                )
            return column
        return next((alias for alias in _ALIASES.get(role, (role,)) if alias in self.names), None)

    def need(self, role: str) -> str:
        """Return the column of a role.

        Args:
            role: Key of `data.fields`.

        Returns:
            The column's name.

        Raises:
            DataError: No column plays it.
        """
        column = self.find(role)
        if column is None:
            raise DataError(
                f"{self.file}: no column plays the role {role!r}, found {self.listed()}",
                remedy=f"Say which one does: data.fields: {{{role}: COLUMN}}.",
            )
        return column

    def listed(self) -> str:
        """Return the columns for a message."""
        return "the columns " + ", ".join(map(repr, self.names))


def text_of(row: Row, column: str) -> str:
    """Return a text that is neither empty nor endless."""
    value = row.values.get(column)
    if not isinstance(value, str):
        row.refuse(
            f"column {column!r} holds {'nothing' if value is None else type(value).__name__}, not a text",
            "Write a text there, or delete the row.",
        )
    if not value.strip():
        row.refuse(f"column {column!r} is empty", "Write a text there, or delete the row.")
    if len(value) > MAX_TEXT_BYTES // 4 and len(value.encode("utf-8", "replace")) > MAX_TEXT_BYTES:
        row.refuse(
            f"column {column!r} holds a text of {len(value):,} characters, more than {MAX_TEXT_BYTES:,} bytes",
            "Split it into several rows.",
        )
    return value


def labels_of(row: Row, column: str) -> str | tuple[str, ...]:
    """Return a label, or several from a list."""
    value = row.values.get(column)
    if isinstance(value, list | tuple):
        return tuple(sorted({_one_label(row, column, each) for each in value}))
    return _one_label(row, column, value)


def label_of(row: Row, column: str) -> str:
    """Return one label."""
    return _one_label(row, column, row.values.get(column))


def _one_label(row: Row, column: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, str) and value.strip()):
        return str(value).strip()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return row.refuse(f"column {column!r} holds no label (found {value!r})", "Write a label there, or delete the row.")


def number_of(row: Row, column: str) -> float:
    """Return a finite number."""
    value = row.values.get(column)
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else float("nan")
    except ValueError:
        number = float("nan")
    if number != number or number in {float("inf"), float("-inf")}:  # noqa: PLR0124 - NaN is unequal to itself
        row.refuse(f"column {column!r} holds no finite number (found {value!r})", "Write a number, or delete the row.")
    return number


def words_of(row: Row, column: str) -> tuple[str, ...]:
    """Return a list of texts or labels that is not empty."""
    value = row.values.get(column)
    if not isinstance(value, list | tuple) or not value:
        found = "nothing" if value is None else "an empty list" if isinstance(value, list) else type(value).__name__
        row.refuse(f"column {column!r} holds {found}, not a list", "Write a list there, or delete the row.")
    return tuple(_one_label(row, column, each) for each in value)
