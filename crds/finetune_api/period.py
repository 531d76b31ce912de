"""How often something happens: a time, a number of steps, or a part of an epoch, in one short text."""

import re
from dataclasses import dataclass
from typing import Final

PERIOD_PATTERN: Final = (
    r"^(?:[1-9][0-9]{0,6}(?:s|m|h|steps?)|(?:[1-9][0-9]{0,3}(?:\.[0-9]{1,4})?|0\.[0-9]{0,3}[1-9])epochs?)$"
)
"""What the CRD checks; RE2 and Python read it alike."""
STEP_PERIOD_PATTERN: Final = PERIOD_PATTERN.replace("s|m|h|steps?", "steps?")
"""The same without times: what happens then must not depend on the machine's speed."""

_PARTS: Final = re.compile(r"([0-9.]+)([a-z]+)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}


class InvalidPeriod(ValueError):
    """A text that is no period."""


@dataclass(frozen=True, slots=True)
class Period:
    """Exactly one of the three is set, and it is above zero."""

    seconds: int | None = None
    steps: int | None = None
    epochs: float | None = None


def parse_period(text: str) -> Period:
    """Parse `90s`, `5m`, `2h`, `200steps` or `0.25epoch`.

    Args:
        text: The period as written in a manifest.

    Returns:
        The period in its own unit; minutes and hours become seconds.

    Raises:
        InvalidPeriod: The text has another form, or is zero.
    """
    parts = _PARTS.fullmatch(text)
    if parts is None or re.fullmatch(PERIOD_PATTERN, text) is None:
        raise InvalidPeriod(f"{text!r} is not a period; write 90s, 5m, 2h, 200steps or 0.25epoch")
    number, unit = parts.groups()
    if unit in _SECONDS:
        return Period(seconds=int(number) * _SECONDS[unit])
    if unit.startswith("step"):
        return Period(steps=int(number))
    return Period(epochs=float(number))
