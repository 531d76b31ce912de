"""A moving average of the trained weights (Polyak and Juditsky 1992), judged and handed over in their place."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from finetune_trainer.hooks import StepHook


def averaging(parameters: Mapping[str, nn.Parameter], decay: float | None) -> Sequence[StepHook]:
    """Return the hook that a decay asks for, if any."""
    return () if decay is None else (Averaging(parameters, decay),)


class Averaging(StepHook):
    """Follows the weights after every step.

    The average is warmed up: of the first steps it is the plain mean, so that it does not remember the start.
    """

    name = "average"

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        """Start at the weights.

        Args:
            parameters: What is trained.
            decay: Part of the old average that a step keeps.
        """
        self._parameters = parameters
        self._decay = decay
        self._average = {name: each.detach().clone() for name, each in parameters.items()}

    def after_update(self, step: int) -> None:
        """Move the average towards the weights."""
        weight = max(1.0 - self._decay, 1.0 / (step + 1.0))
        for name, each in self._average.items():
            each.lerp_(self._parameters[name].detach(), weight)

    def before_judging(self) -> None:
        """Put the average in place of the weights."""
        self._swap()

    def after_judging(self) -> None:
        """Put the weights back."""
        self._swap()

    def finish(self) -> None:
        """Leave the average in place of the weights."""
        with torch.no_grad():
            for name, each in self._average.items():
                self._parameters[name].copy_(each)

    def state(self) -> Mapping[str, Tensor]:
        """Return the average."""
        return self._average

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        for name, each in self._average.items():
            each.copy_(tensors[name])

    def _swap(self) -> None:
        with torch.no_grad():
            for name, each in self._average.items():
                kept = self._parameters[name].detach().clone()
                self._parameters[name].copy_(each)
                each.copy_(kept)
