"""Which tokens of a conversation are learned: the assistant's, found by rendering prefixes.

The template renders the conversation up to and including each assistant's turn, and up to its beginning with the
generation prompt; the text between the two is what the model is to write. No marker of any template is searched for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_trainer.data.formats import Row
from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.errors import ConfigError

Piece = tuple[str, bool]
_SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_CHAT_ROLES = ("system", "user", "assistant", "tool")


def chat_pieces(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> list[Piece]:
    """Cut a rendered conversation into pieces.

    Args:
        tokenizer: With the model's chat template.
        messages: Objects with role and content, one at least the assistant's.

    Returns:
        Pairs of text and whether it is learned; joined, they are the whole rendering up to the last learned piece.

    Raises:
        ConfigError: The template changes earlier turns when later ones are added, so that no prefix exists.
    """
    pieces: list[Piece] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        opening = tokenizer.render_chat(messages[:index], add_generation_prompt=True)
        whole = tokenizer.render_chat(messages[: index + 1])
        if not (opening.startswith(done) and whole.startswith(opening)):
            raise ConfigError(
                "the model's chat template rewrites earlier turns, so the assistant's words cannot be located",
                remedy="Train on conversations with one assistant turn, or on prompt and completion.",
            )
        pieces += [(opening[len(done) :], False), (whole[len(opening) :], True)]
        done = whole
    return [piece for piece in pieces if piece[0]]


def messages_of(row: Row, column: str, before: str | None = None) -> tuple[dict[str, str], ...]:
    """Return the messages of a conversation, in either of the two usual spellings.

    Args:
        row: The row.
        column: Where they are.
        before: Where the conversation begins, if that is another column.

    Returns:
        Objects with role and content, one at least the assistant's.

    Raises:
        DataError: They are no such list; file and row are named.
    """  # noqa: DOC502
    messages = _turns_of(row, column, before)
    if not any(message["role"] == "assistant" for message in messages):
        row.refuse("no message is the assistant's", "Add the answer to learn, or delete the row.")
    return messages


def opening_of(row: Row, column: str) -> tuple[dict[str, str], ...]:
    """Return the messages of a conversation up to the last one that is not the assistant's: what it is to answer."""
    messages = list(_turns_of(row, column, None))
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages:
        row.refuse("there is no message to answer", "Write a message of the user, or delete the row.")
    return tuple(messages)


def _turns_of(row: Row, column: str, before: str | None) -> tuple[dict[str, str], ...]:
    found: Any = row.values.get(column)
    opening = row.values.get(before) if before else None
    found = [*opening, *found] if isinstance(opening, list) and isinstance(found, list) else found
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
    return tuple(messages)
