"""Waiting for what happens elsewhere; the patience only bounds a failure."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 60.0


def await_that(find: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Return the first true value; fails with what was awaited."""
    until = time.monotonic() + patience_s
    while not (found := find()):
        assert time.monotonic() < until, f"waited {patience_s} s for {what}"
        time.sleep(0.02)
    return found
