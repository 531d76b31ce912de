"""Text that others wrote, made safe to put into a status: one line, nothing invisible, bounded.

A termination message is whatever a container wrote: it may hold control characters, text that runs right to left, or
halves of characters. They are shown as escapes, so that a status reads the same everywhere. Pure.
"""

import unicodedata

MAX_TEXT = 1000
"""Most characters of a message or remedy; the status allows 4096."""
_CUT = "..."


def clean(text: str, limit: int = MAX_TEXT, *, keep_end: bool = False) -> str:
    """Return a text as one printable line.

    Args:
        text: Anything.
        limit: Most characters to return.
        keep_end: Cut the beginning, as for a log, whose last line says most.

    Returns:
        The text without surrounding space; what is not printable is written as a Python escape.
    """
    # One character more than fits is enough to see that it does not; an escape only grows.
    text = text.strip()
    text = text[-limit - 1 :] if keep_end else text[: limit + 1]
    shown = "".join(map(_shown, text))
    if len(shown) <= limit:
        return shown
    room = max(0, limit - len(_CUT))
    cut = _CUT + shown[len(shown) - room :] if keep_end else shown[:room] + _CUT
    return cut[:limit]


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    return character.encode("unicode_escape").decode("ascii")
