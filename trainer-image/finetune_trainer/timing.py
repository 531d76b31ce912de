"""When something is due, and how fast it goes."""

import math
import time

from finetune_api.period import Period

_REPORT_EVERY_S = 1.0


class Timer:
    """Says when a period has passed, in steps or in seconds."""

    def __init__(self, period: Period, steps_per_epoch: int) -> None:
        """Start counting now."""
        epochs = None if period.epochs is None else max(1, round(period.epochs * steps_per_epoch))
        self._steps = period.steps or epochs
        self._seconds = period.seconds
        self._since = time.monotonic()

    def due(self, step: int) -> bool:
        """Tell whether the period ends after this many steps."""
        if self._steps is not None:
            return step % self._steps == 0
        if time.monotonic() - self._since < (self._seconds or math.inf):
            return False
        self._since = time.monotonic()
        return True


class RateMeter:
    """Rows, tokens and steps since the last report, with a step time smoothed over reports."""

    def __init__(self) -> None:
        """Start counting."""
        self._reported_at = -math.inf
        self._rows = self._tokens = self._steps = 0
        self._seconds = 0.0
        self._step_seconds = 0.0

    def add(self, rows: int, tokens: int, seconds: float) -> None:
        """Count one step."""
        self._rows += rows
        self._tokens += tokens
        self._steps += 1
        self._seconds += seconds

    def due(self, *, last: bool) -> bool:
        """Tell whether it is time to report."""
        return last or time.monotonic() - self._reported_at >= _REPORT_EVERY_S

    def take(self) -> tuple[float, float, float]:
        """Return rows per second, tokens per second and seconds per step, and start anew."""
        seconds = max(self._seconds, 1e-9)
        now = seconds / self._steps
        self._step_seconds = now if self._step_seconds == 0.0 else 0.8 * self._step_seconds + 0.2 * now
        rates = (self._rows / seconds, self._tokens / seconds, self._step_seconds)
        self._rows = self._tokens = self._steps = 0
        self._seconds = 0.0
        self._reported_at = time.monotonic()
        return rates
