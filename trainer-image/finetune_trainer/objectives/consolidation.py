"""Keep what earlier rows need: elastic weight consolidation (Kirkpatrick et al. 2017).

The importance of a weight is the mean, over earlier rows, of the square of its gradient of their loss: the diagonal of
the empirical Fisher information. It is a function of the model's file and of these rows, and every process
computes all of it: the same bits in any number of them, and again at a restart, so that checkpoints keep nothing of it.
"""

from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from finetune_trainer.data.table import TokenTable
from finetune_trainer.hooks import StepHook
from finetune_trainer.tasks.scoring import Learned


def importances(
    task: Learned, model: nn.Module, parameters: Mapping[str, nn.Parameter], table: TokenTable, device: torch.device
) -> dict[str, Tensor]:
    """Return the mean square of each weight's gradient over rows.

    Args:
        task: Whose loss it is.
        model: Switched to evaluation meanwhile, so that nothing is random.
        parameters: The trained ones by name; without gradients.
        table: The rows, each run alone.
        device: Where the model is.

    Returns:
        By name, for those that have a gradient.
    """
    was_training = model.training
    model.eval()
    summed: dict[str, Tensor] = {}
    for row in range(len(table)):
        batch = task.collate(table, np.array([row], dtype=np.int64), None).to(device)
        task.loss_sum(model, batch).sum().backward()
        for name, each in parameters.items():
            if each.grad is None:
                continue
            if name not in summed:
                summed[name] = torch.zeros_like(each.grad)
            summed[name].addcmul_(each.grad, each.grad)
            each.grad = None
    model.train(was_training)
    return {name: each / len(table) for name, each in summed.items()}


class Consolidation(StepHook):
    """Adds strength x importance x (weight - start) to the whole gradient, once per step, before it is clipped."""

    name = "ewc"

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        new: Collection[str],
        importance: Mapping[str, Tensor],
        strength: float,
    ) -> None:
        """Start from the weights as they are.

        Args:
            parameters: The trained ones by name.
            new: Names of those that start at random: nothing earlier needs them.
            importance: Of each weight, by name.
            strength: What multiplies the distance.
        """
        held = {name: each for name, each in parameters.items() if name in importance and name not in new}
        self._held = [(each, each.detach().clone(), importance[name]) for name, each in held.items()]
        self._strength = strength

    @property
    def held(self) -> int:
        """Tensors that are held."""
        return len(self._held)

    def before_update(self, step: int) -> None:  # noqa: ARG002 - the same in every step
        """Add the gradient of the distance."""
        for each, start, importance in self._held:
            if each.grad is not None:
                # A new tensor, as in `anchor`.
                each.grad = each.grad.addcmul(importance, each.detach() - start, value=self._strength)
