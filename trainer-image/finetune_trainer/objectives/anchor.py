"""Keep pretrained weights near where they started: L2-SP (Li et al. 2018), strength/2 times the squared distance."""

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from finetune_trainer.hooks import StepHook


def anchoring(
    parameters: Mapping[str, nn.Parameter], new: Collection[str], strength: float | None
) -> Sequence[StepHook]:
    """Return the hook that a strength asks for, if any.

    Args:
        parameters: The trained ones, as they were loaded.
        new: Names of those that start at random: there is nothing to stay near.
        strength: What multiplies the distance; None for no hook.

    Returns:
        One hook or none.
    """
    if strength is None:
        return ()
    return (Anchor([each for name, each in parameters.items() if name not in new], strength),)


class Anchor(StepHook):
    """Adds strength x (weight - start) to the whole gradient, once per step, before it is clipped.

    A resumed run loads the same start from the model's files: a checkpoint keeps nothing of it.
    """

    name = "anchor"

    def __init__(self, parameters: Sequence[nn.Parameter], strength: float) -> None:
        """Start from the weights as they are."""
        self._parameters = [(each, each.detach().clone()) for each in parameters]
        self._strength = strength

    def before_update(self, step: int) -> None:  # noqa: ARG002 - the same in every step
        """Add the gradient of the distance."""
        for each, start in self._parameters:
            if each.grad is not None:
                # A new tensor: an embedding keeps the old one and clears only the rows that were looked up.
                each.grad = each.grad.add(each.detach() - start.to(each.device), alpha=self._strength)
