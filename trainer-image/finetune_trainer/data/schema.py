"""Find out which column plays which role, and turn rows into examples.

A role is taken from `data.fields`, else detected from the usual column names: text and label, sentence pairs, alpaca
(instruction, input, output), prompt and completion, messages, sharegpt (conversations). What is wrong with a row is
said before any model is loaded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer.data.formats import MAX_TEXT_BYTES, Row
from finetune_trainer.errors import DataError

_ALIASES: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "sentence", "sentence1", "premise", "review", "content", "document", "question1"),
    "textPair": ("text_pair", "textPair", "sentence2", "hypothesis", "question2"),
    "label": ("label", "labels", "sentiment", "category", "class", "target", "score", "rating"),
    "prompt": ("prompt", "instruction", "question"),
    "completion": ("completion", "output", "response", "answer"),
    "messages": ("messages", "conversations", "conversation"),
}
_SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_CHAT_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Example:
    """What one row says, in the form that its task reads; exactly the parts that the task needs are set."""

    row: Row
    text: str = ""
    pair: str | None = None
    label: str | float | tuple[str, ...] | None = None
    messages: tuple[dict[str, str], ...] = ()
    completion: str | None = None

    @property
    def place(self) -> str:
        """File and row, for messages."""
        return f"{self.row.file}, row {self.row.number}"


def to_examples(rows: Sequence[Row], task: str, fields: Mapping[str, str]) -> list[Example]:
    """Turn rows into examples.

    Args:
        rows: At least one row.
        task: Name of a task.
        fields: Roles mapped to columns; others are detected.

    Returns:
        One example per row, in the same order.

    Raises:
        DataError: A column is missing or a value cannot play its role; file, row and remedy are named.
    """  # noqa: DOC502
    columns = tuple(rows[0].values)
    build = _BUILDERS[task](_Columns(rows[0].file, columns, fields))
    return [build(row) for row in rows]


@dataclass(frozen=True, slots=True)
class _Columns:
    file: str
    names: tuple[str, ...]
    fields: Mapping[str, str]

    def find(self, role: str) -> str | None:
        if role in self.fields:
            column = self.fields[role]
            if column not in self.names:
                raise DataError(
                    f"{self.file}: data.fields.{role} names the column {column!r}, found {self._listed()}",
                    remedy="Name a column that the file has.",
                )
            return column
        return next((alias for alias in _ALIASES[role] if alias in self.names), None)

    def need(self, role: str) -> str:
        column = self.find(role)
        if column is None:
            raise DataError(
                f"{self.file}: no column plays the role {role!r}, found {self._listed()}",
                remedy=f"Say which one does: data.fields: {{{role}: COLUMN}}.",
            )
        return column

    def _listed(self) -> str:
        return "the columns " + ", ".join(map(repr, self.names))


def _text_of(row: Row, column: str) -> str:
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


def _labels_of(row: Row, column: str) -> str | tuple[str, ...]:
    value = row.values.get(column)
    if isinstance(value, list | tuple):
        return tuple(sorted({_one_label(row, column, each) for each in value}))
    return _one_label(row, column, value)


def _one_label(row: Row, column: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, str) and value.strip()):
        return str(value).strip()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return row.refuse(f"column {column!r} holds no label (found {value!r})", "Write a label there, or delete the row.")


def _number_of(row: Row, column: str) -> float:
    value = row.values.get(column)
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else float("nan")
    except ValueError:
        number = float("nan")
    if number != number or number in {float("inf"), float("-inf")}:  # noqa: PLR0124 - NaN is unequal to itself
        row.refuse(f"column {column!r} holds no finite number (found {value!r})", "Write a number, or delete the row.")
    return number


def _labelled(number: bool) -> Callable[[_Columns], Callable[[Row], Example]]:
    def prepare(columns: _Columns) -> Callable[[Row], Example]:
        text, pair, label = columns.need("text"), columns.find("textPair"), columns.need("label")

        def build(row: Row) -> Example:
            return Example(
                row,
                text=_text_of(row, text),
                pair=_text_of(row, pair) if pair else None,
                label=_number_of(row, label) if number else _labels_of(row, label),
            )

        return build

    return prepare


def _masked(columns: _Columns) -> Callable[[Row], Example]:
    text = columns.need("text")
    return lambda row: Example(row, text=_text_of(row, text))


def _causal(columns: _Columns) -> Callable[[Row], Example]:
    if messages := columns.find("messages"):
        return lambda row: Example(row, messages=_messages_of(row, messages))
    prompt, completion = columns.find("prompt"), columns.find("completion")
    if prompt and completion:
        context = "input" if "input" in columns.names and prompt == "instruction" else None

        def build(row: Row) -> Example:
            text = _text_of(row, prompt)
            if context and isinstance(row.values.get(context), str) and row.values[context].strip():
                text = f"{text}\n\n{row.values[context]}"
            return Example(row, text=text, completion=_text_of(row, completion))

        return build
    text = columns.find("text")
    if text is None:
        raise DataError(
            f"{columns.file}: no column holds messages, prompt and completion, or text, found "
            + ", ".join(map(repr, columns.names)),
            remedy="Say which one does: data.fields: {messages: COLUMN}.",
        )
    return lambda row: Example(row, text=_text_of(row, text))


def _messages_of(row: Row, column: str) -> tuple[dict[str, str], ...]:
    found = row.values.get(column)
    if not isinstance(found, list) or not found:
        row.refuse(f"column {column!r} holds no list of messages", "Write a list of {role, content} objects.")
    messages: list[dict[str, str]] = []
    for index, each in enumerate(found):
        if not isinstance(each, Mapping):
            row.refuse(f"message {index} is no object", "Write {role, content} objects.")
        role = _SHAREGPT.get(str(each.get("from", "")), each.get("role"))
        content = each.get("value", each.get("content"))
        if role not in _CHAT_ROLES or not isinstance(content, str):
            row.refuse(
                f"message {index} has the role {role!r} and {'a' if isinstance(content, str) else 'no'} text",
                f"Use the roles {', '.join(_CHAT_ROLES)} and a text as content.",
            )
        messages.append({"role": str(role), "content": content})
    if not any(message["role"] == "assistant" for message in messages):
        row.refuse("no message is the assistant's", "Add the answer to learn, or delete the row.")
    return tuple(messages)


_BUILDERS: Mapping[str, Callable[[_Columns], Callable[[Row], Example]]] = {
    "text-classification": _labelled(number=False),
    "text-regression": _labelled(number=True),
    "causal-lm": _causal,
    "masked-lm": _masked,
}
