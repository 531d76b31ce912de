"""The evaluation gate: a model that is not good enough is not handed over."""

from collections.abc import Mapping

from finetune_api.metric_names import LOWER_IS_BETTER
from finetune_api.spec import Gate
from finetune_trainer.errors import GateFailed


def check_gate(gate: Gate, split: str, metrics: Mapping[str, float], base: float | None) -> None:
    """Compare a metric with its bars.

    Args:
        gate: The bars.
        split: The set whose metric counts.
        metrics: `split/name` to value.
        base: The untrained model's value, when the gate compares with it.

    Raises:
        GateFailed: A bar is missed, or the metric is not a number.
    """
    name = f"{split}/{gate.metric}"
    value = metrics[name]
    sign = -1.0 if gate.metric in LOWER_IS_BETTER else 1.0
    missed: list[str] = []
    if gate.minimum is not None and not sign * value >= sign * gate.minimum:
        missed.append(f"the bar is {gate.minimum:g}")
    gain = gate.better_than_base
    if base is not None and gain is not None and not sign * (value - base) >= gain:
        missed.append(f"the untrained model has {base:.4g}, a gain of {gain:g} is asked for")
    if missed:
        raise GateFailed(
            f"{name} is {value:.4g}: {'; '.join(missed)}",
            remedy="Train longer, on more data, or with another learning rate; or lower evaluation.gate.",
        )
