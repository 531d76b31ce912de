"""Two passes with other dropout that should say the same (R-Drop, Liang et al. 2021).

Legend: K supervised elements, C classes.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from finetune_trainer.data.table import TokenTable
from finetune_trainer.errors import ConfigError
from finetune_trainer.objectives.around import Around
from finetune_trainer.objectives.divergence import counted, symmetric
from finetune_trainer.tasks.base import Batch
from finetune_trainer.tasks.scoring import Scoring, total

_SAMPLE_ROWS = 4


class RDrop(Around):
    """A task whose loss is the mean of two passes' and `weight` times the symmetric divergence between their scores."""

    def __init__(self, task: Scoring, weight: float) -> None:
        """Remember both."""
        super().__init__(task)
        self._task, self._weight = task, weight

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Run the model twice; its dropout goes on drawing, from the seed of the pass."""
        return total(self.losses, self._task.scored(model, batch), self._task.scored(model, batch))

    def losses(self, one_KC: Tensor, other_KC: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of each element, [K]."""
        own_K = 0.5 * (self._task.losses(one_KC, targets) + self._task.losses(other_KC, targets))
        return own_K + self._weight * counted(symmetric(self._task.kind, one_KC, other_KC), targets)

    def check(self, model: nn.Module, table: TokenTable, device: torch.device) -> None:
        """Run two passes over some rows.

        Args:
            model: In training mode.
            table: The training rows.
            device: Where the model is.

        Raises:
            ConfigError: They are equal: nothing is dropped, and the term would only cost time.
        """
        batch = self.collate(table, np.arange(min(_SAMPLE_ROWS, len(table))), 0).to(device)
        with torch.no_grad():
            one, other = (self._task.scored(model, batch).hidden for _ in range(2))
        if torch.equal(one, other):
            raise ConfigError(
                "spec.training.rDrop: the model drops nothing, so both passes are equal",
                remedy="Set training.dropout, such as 0.1, or remove rDrop.",
            )
