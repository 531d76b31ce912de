"""Judge a model on a set of rows: every process takes a share, the metrics are of all rows together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Example
from finetune_trainer.data.table import TokenTable
from finetune_trainer.distributed import Group
from finetune_trainer.errors import Preempted
from finetune_trainer.stopping import StopFlag
from finetune_trainer.tasks.base import Batch, Encoded, Predictions, Referred, Task

_TOKENS_PER_PASS = 4096


class EvaluationStopped(Exception):
    """A process was asked to stop; all processes leave the evaluation together."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a model says of a set of rows: row i of the predictions is from `examples[i]`."""

    examples: Sequence[Example]
    predictions: Predictions
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Judge:
    """What judging needs besides the model and the rows."""

    task: Task
    group: Group
    autocast: Callable[[], torch.autocast]
    stop: StopFlag
    heartbeat: Callable[[], None]

    def judge(self, model: nn.Module, rows: Encoded) -> Found:
        """Return what a model says of all rows and how good that is, the same on every process."""
        predictions = self.every(model, rows.table, self.task.predict)
        return Found(rows.examples, predictions, self.task.metrics(predictions, rows.examples))

    def every(
        self, model: nn.Module, table: TokenTable, compute: Callable[[nn.Module, Batch], Predictions]
    ) -> Predictions:
        """Compute something for every row; the same arrays, in the order of rows, on every process.

        Args:
            model: Switched to evaluation for this time.
            table: At least one row.
            compute: What to compute for a batch.

        Returns:
            Arrays by name.

        Raises:
            EvaluationStopped: A process was asked to stop.
        """
        was_training = model.training
        model.eval()
        try:
            mine = [] if self.stop.requested else self._compute(model, table, compute)
        finally:
            model.train(was_training)
        everyone = self.group.gather((self.stop.requested, mine))
        if any(stopped for stopped, _ in everyone):
            raise EvaluationStopped
        return _in_row_order([part for _, parts in everyone for part in parts])

    def _compute(
        self, model: nn.Module, table: TokenTable, compute: Callable[[nn.Module, Batch], Predictions]
    ) -> list[tuple[Rows, Predictions]]:
        parts: list[tuple[Rows, Predictions]] = []
        for rows in passes(table)[self.group.rank :: self.group.world]:
            if self.stop.requested:
                break
            batch = self.task.collate(table, rows, None).to(self.group.device)
            with torch.no_grad(), self.autocast():
                parts.append((rows, compute(model, batch)))
            self.heartbeat()
        return parts


def refer(judge: Judge, model: nn.Module, sets: Mapping[str, Encoded]) -> Mapping[str, Encoded]:
    """Add what the untrained model says of every row, for a task that compares with it; others get the sets back.

    Args:
        judge: Computes it, every process a share.
        model: As it is before the first step, also in a run that will continue from a checkpoint.
        sets: The rows of each set.

    Returns:
        The sets, their tables with more dense columns.

    Raises:
        Preempted: A process was asked to stop.
    """
    task = judge.task
    if not isinstance(task, Referred):
        return sets
    try:
        found = {name: judge.every(model, each.table, task.refer) for name, each in sets.items()}
    except EvaluationStopped as error:
        raise Preempted("asked to stop before the first step", remedy="Run the same command again.") from error
    return {
        name: replace(each, table=replace(each.table, dense={**each.table.dense, **found[name]}))
        for name, each in sets.items()
    }


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
