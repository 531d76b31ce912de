"""Requests to stop at a chosen step."""

from finetune_trainer.run import Progress
from finetune_trainer.stopping import StopFlag


class StopAfter(StopFlag):
    """Asks to stop when a step is done."""

    def __init__(self, progress: Progress, step: int) -> None:
        self._progress, self._step = progress, step

    @property
    def requested(self) -> bool:
        return self._progress.loop is not None and self._progress.loop.step + 1 >= self._step
