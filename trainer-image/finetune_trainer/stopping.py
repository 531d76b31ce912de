"""A request to stop: SIGTERM or SIGINT sets a flag, and the step loop leaves at a point where all processes agree."""

import signal
from types import FrameType


class StopFlag:
    """Set by a signal, read by the step loop and the evaluation."""

    def __init__(self) -> None:
        """Start without a request."""
        self.requested = False

    def listen(self) -> None:
        """Take SIGTERM and SIGINT from now on."""
        signal.signal(signal.SIGTERM, self._set)
        signal.signal(signal.SIGINT, self._set)

    def _set(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
