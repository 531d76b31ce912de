"""AdamW and its learning rate, as pure functions of the step."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from finetune_api.spec import Training

_RATES = {"lora": 2e-4, "full": 2e-5}
_RANDOM_RATE = 5e-4


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


def make_optimizer(parameters: Mapping[str, nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW over named parameters; biases and normalisation weights (one dimension) do not decay."""
    decayed = [each for each in parameters.values() if each.ndim > 1]
    others = [each for each in parameters.values() if each.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
