"""Processes that do not outlive their parent."""

import ctypes
import os
import signal

from finetune_trainer.errors import ConfigError

_PR_SET_PDEATHSIG = 1


def die_with_parent(number: signal.Signals) -> None:
    """Ask the kernel to signal this process when its parent dies, so that nothing is left behind.

    Args:
        number: SIGKILL, or SIGTERM for one that saves first.

    Raises:
        ConfigError: The parent is gone already.
    """
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        raise ConfigError("the process that started this one is gone", remedy="Start the run again.")
