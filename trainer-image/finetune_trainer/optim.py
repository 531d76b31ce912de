"""The learning rate, as a pure function of the step."""

import math
from collections.abc import Callable, Mapping

from finetune_api.spec import Training

_RATES: Mapping[str, float] = {
    "full": 2e-5,
    "top-layers": 2e-5,
    "encoder": 2e-5,
    "decoder": 2e-5,
    "lora": 2e-4,
    "adalora": 1e-3,
    "ia3": 5e-3,
    "bottleneck": 5e-4,
    "prompt-tuning": 1e-2,
    "p-tuning": 1e-3,
    "prefix-tuning": 1e-2,
    "bitfit": 1e-3,
    "layer-norm": 1e-3,
    "head": 1e-3,
}
_RANDOM_RATE = 5e-4
_DECAY_SHARE = 0.2
"""Part of the run over which wsd falls."""


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
    if training.schedule == "inverse-sqrt":
        return peak * math.sqrt(max(1, warmup_steps) / max(1, step))
    return peak * _SHAPES[training.schedule]((max_steps - step) / max(1, max_steps - warmup_steps))


_SHAPES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "linear": lambda left: left,
    "polynomial": lambda left: left**2,
    "cosine": lambda left: 0.5 * (1.0 - math.cos(math.pi * left)),
    "wsd": lambda left: min(1.0, left / _DECAY_SHARE),
}
"""The part of the highest rate, from the part of the run after the warm-up that is left."""
