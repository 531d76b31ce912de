"""Judge a model on a set of rows: every process takes a share, the metrics are of all rows together."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.table import TokenTable
from finetune_trainer.distributed import Group
from finetune_trainer.stopping import StopFlag
from finetune_trainer.tasks.base import Encoded, Predictions, Task

_TOKENS_PER_PASS = 4096


class EvaluationStopped(Exception):
    """A process was asked to stop; all processes leave the evaluation together."""


@dataclass(frozen=True, slots=True)
class Judge:
    """What judging needs besides the model and the rows."""

    task: Task
    group: Group
    autocast: Callable[[], torch.autocast]
    stop: StopFlag
    heartbeat: Callable[[], None]

    def metrics(self, model: nn.Module, rows: Encoded) -> dict[str, float]:
        """Return the metrics of all rows, the same on every process.

        Args:
            model: Switched to evaluation for this time.
            rows: At least one.

        Returns:
            Names to values.

        Raises:
            EvaluationStopped: A process was asked to stop.
        """
        was_training = model.training
        model.eval()
        try:
            mine = [] if self.stop.requested else self._predict(model, rows.table)
        finally:
            model.train(was_training)
        everyone = self.group.gather((self.stop.requested, mine))
        if any(stopped for stopped, _ in everyone):
            raise EvaluationStopped
        return self.task.metrics(_in_row_order([part for _, parts in everyone for part in parts]), rows.examples)

    def _predict(self, model: nn.Module, table: TokenTable) -> list[tuple[Rows, Predictions]]:
        parts: list[tuple[Rows, Predictions]] = []
        for rows in passes(table)[self.group.rank :: self.group.world]:
            if self.stop.requested:
                break
            batch = self.task.collate(table, rows, None).to(self.group.device)
            with torch.no_grad(), self.autocast():
                parts.append((rows, self.task.predict(model, batch)))
            self.heartbeat()
        return parts


def passes(table: TokenTable) -> list[Rows]:
    """Cut a set into passes of similar length and bounded size, longest first."""
    lengths = table.lengths
    order = np.argsort(-lengths, kind="stable")
    cuts: list[Rows] = []
    start = 0
    while start < len(order):
        count = max(1, _TOKENS_PER_PASS // max(1, int(lengths[order[start]])))
        cuts.append(order[start : start + count])
        start += count
    return cuts


def _in_row_order(parts: list[tuple[Rows, Predictions]]) -> Predictions:
    order = np.argsort(np.concatenate([rows for rows, _ in parts]), kind="stable")
    names = parts[0][1].keys()
    return {name: np.concatenate([found[name] for _, found in parts])[order] for name in names}
