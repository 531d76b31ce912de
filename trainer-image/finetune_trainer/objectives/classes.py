"""The loss of a class, or of any number of classes: cross entropy, with weights of classes, or focal.

Legend: B rows, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from finetune_trainer.data.table import Array


@dataclass(frozen=True, slots=True)
class ClassLoss:
    """Cross entropy in nats; with `gamma`, times (1 - probability of the right class) ^ gamma (Lin et al. 2017)."""

    smoothing: float = 0.0
    """Probability spread over all classes."""
    gamma: float = 0.0
    weights: tuple[float, ...] | None = None
    """What a row of each class counts, in the sum and in what it is divided by, as in torch; 1 each when None."""

    def one_of(self, logits_BC: Tensor, labels_B: Tensor) -> Tensor:
        """Return the loss of each row with one class, [B]."""
        weight_C = None if self.weights is None else torch.tensor(self.weights, device=logits_BC.device)
        losses_B = F.cross_entropy(
            logits_BC, labels_B, weight=weight_C, reduction="none", label_smoothing=self.smoothing
        )
        if self.gamma == 0.0:
            return losses_B
        right_B = F.log_softmax(logits_BC, dim=-1).gather(1, labels_B[:, None])[:, 0].exp()
        return (1.0 - right_B) ** self.gamma * losses_B

    def any_of(self, logits_BC: Tensor, labels_BC: Tensor) -> Tensor:
        """Return the loss of each class of each row, where any number of classes may hold, [B, C]."""
        smooth_BC = labels_BC * (1.0 - self.smoothing) + 0.5 * self.smoothing
        losses_BC = F.binary_cross_entropy_with_logits(logits_BC, smooth_BC, reduction="none")
        if self.gamma == 0.0:
            return losses_BC
        wrong_BC = torch.sigmoid(logits_BC * (1.0 - 2.0 * labels_BC))
        return wrong_BC**self.gamma * losses_BC

    def counts(self, labels_B: Tensor) -> Tensor:
        """Return what each row counts, [B]; there are weights."""
        return torch.tensor(self.weights, device=labels_B.device)[labels_B]

    def count(self, labels: Array) -> float:
        """Return what rows of these classes count together."""
        if self.weights is None:
            return float(len(labels))
        return float(np.asarray(self.weights)[labels.astype(np.int64)].sum())


def balanced_weights(counts: Sequence[int]) -> tuple[float, ...]:
    """Return rows / (classes x rows of the class) for each class, as scikit-learn's `balanced`."""
    return tuple(sum(counts) / (len(counts) * count) for count in counts)
