"""A task with another loss: its batches and its counts stay as they are."""

from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.table import TokenTable
from finetune_trainer.tasks.base import Batch, Count
from finetune_trainer.tasks.scoring import Learned


class Around:
    """What terms over rows have in common; each adds `loss_sum`."""

    def __init__(self, task: Learned) -> None:
        """Remember the task."""
        self._learned = task

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:
        """Return the task's batch."""
        return self._learned.collate(table, rows, epoch)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> Count:
        """Return the task's count: an element counts in a term as it does in the task."""
        return self._learned.targets(table, rows, epoch)
