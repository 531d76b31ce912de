"""AdamW and its learning rate, as pure functions of the step."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from finetune_api.spec import Training

_RATES = {"lora": 2e-4, "full": 2e-5}
_RANDOM_RATE = 5e-4
_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


def default_learning_rate(method: str, *, pretrained: bool) -> float:
    """Return the learning rate of a method when the manifest gives none."""
    return _RATES[method] if pretrained else _RANDOM_RATE


def learning_rate(training: Training, peak: float, step: int, max_steps: int) -> float:
    """Return the learning rate of one step.

    Args:
        training: Schedule and warm-up.
        peak: Highest learning rate.
        step: Counted from 0.
        max_steps: Steps of the whole run.

    Returns:
        The rate; it rises over the warm-up and is above 0 at the last step.
    """
    warmup_steps = math.ceil(training.warmup * max_steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if training.schedule == "constant":
        return peak
    left = (max_steps - step) / max(1, max_steps - warmup_steps)
    if training.schedule == "linear":
        return peak * left
    return peak * 0.5 * (1.0 - math.cos(math.pi * left))


class AdamW:
    """AdamW (Loshchilov and Hutter 2019) over named parameters, by torch's fused kernel.

    torch.optim.AdamW does the same around the same kernel, and imports torch's compiler at its first use. Biases and
    normalisation weights (one dimension) do not decay.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], weight_decay: float) -> None:
        """Start with moments of zero.

        Args:
            parameters: What is trained.
            weight_decay: Of the parameters with more than one dimension.
        """
        self._parameters = parameters
        self._decayed = [name for name, each in parameters.items() if each.ndim > 1]
        self._others = [name for name, each in parameters.items() if each.ndim <= 1]
        self._weight_decay = weight_decay
        self.exp_avg = {name: torch.zeros_like(each) for name, each in parameters.items()}
        self.exp_avg_sq = {name: torch.zeros_like(each) for name, each in parameters.items()}
        self._steps = {name: torch.zeros((), device=each.device) for name, each in parameters.items()}

    def restore(self, steps: int, exp_avg: Mapping[str, Tensor], exp_avg_sq: Mapping[str, Tensor]) -> None:
        """Continue from the moments after some steps."""
        for name in self._parameters:
            self.exp_avg[name].copy_(exp_avg[name])
            self.exp_avg_sq[name].copy_(exp_avg_sq[name])
            self._steps[name].fill_(steps)

    def step(self, rate: float) -> None:
        """Move every parameter that has a gradient, and drop the gradients."""
        with torch.no_grad():
            self._move(self._decayed, rate, self._weight_decay)
            self._move(self._others, rate, 0.0)
        for each in self._parameters.values():
            each.grad = None

    def _move(self, names: Sequence[str], rate: float, weight_decay: float) -> None:
        found = {name: grad for name in names if (grad := self._parameters[name].grad) is not None}
        if not found:
            return
        adamw(
            [self._parameters[name] for name in found],
            list(found.values()),
            [self.exp_avg[name] for name in found],
            [self.exp_avg_sq[name] for name in found],
            [],
            [self._steps[name] for name in found],
            fused=True,
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=rate,
            weight_decay=weight_decay,
            eps=_EPSILON,
            maximize=False,
        )
