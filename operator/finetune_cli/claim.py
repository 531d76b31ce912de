"""One run at a time in a work folder, also when the command that started it was killed."""

import fcntl
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

_COMMAND_FILE = ".command.lock"
_TRAINER_FILE = ".trainer.lock"
_POLL_S = 0.1


class WorkFolderBusy(Exception):
    """Another command runs in this folder."""


@contextmanager
def claimed(work: Path, on_wait: Callable[[], None]) -> Generator[int]:
    """Hold a work folder for one run.

    Two locks, which the kernel drops with the processes that hold them: the command's own, and one that the trainer
    inherits. When the first is free and the second is not, the trainer of a killed command is saving its last step.

    Args:
        work: The work folder; exists.
        on_wait: Told once when such a trainer has to be waited for.

    Yields:
        int: The file descriptor that the trainer inherits.

    Raises:
        WorkFolderBusy: Another command is in this folder.
    """
    with (work / _COMMAND_FILE).open("wb") as command, (work / _TRAINER_FILE).open("wb") as trainer:
        if not _locked(command.fileno()):
            raise WorkFolderBusy(
                f"{work}: another command uses this work folder. Wait for its end, or choose another --workdir."
            )
        if not _locked(trainer.fileno()):
            on_wait()
            while not _locked(trainer.fileno()):
                time.sleep(_POLL_S)
        os.set_inheritable(trainer.fileno(), True)
        yield trainer.fileno()


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
