"""What takes part in optimiser steps besides the loss: a budget, an order of unfreezing, an average of the weights.

The loop calls every hook at the same points of a step. A hook that keeps state hands it out as tensors, so that a
resumed run goes on bit by bit.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor


class StepHook:
    """Does nothing; a hook overrides the points that it needs."""

    name: str = ""
    """Key of its state in a checkpoint."""

    def begin(self, max_steps: int, steps_per_epoch: int) -> None:
        """Learn how long the run is, before its first step."""

    def before_step(self, step: int) -> None:
        """Act before the first pass of a step, counted from 0."""

    def before_update(self, step: int) -> None:
        """Act when gradients are whole, the same on every process, and not yet clipped."""

    def after_update(self, step: int) -> None:
        """Act after the optimiser moved the parameters."""

    def before_judging(self) -> None:
        """Act before the model is judged in the middle of the run."""

    def after_judging(self) -> None:
        """Act after that."""

    def finish(self) -> None:
        """Act at the end of training: hand over what `before_judging` would show."""

    def state(self) -> Mapping[str, Tensor]:
        """Return what a checkpoint must keep."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""


class StepHooks(StepHook):
    """Several hooks as one, each with its name before its state."""

    def __init__(self, hooks: Sequence[StepHook]) -> None:
        """Keep their order."""
        self._hooks = hooks

    def begin(self, max_steps: int, steps_per_epoch: int) -> None:
        """Tell each."""
        for hook in self._hooks:
            hook.begin(max_steps, steps_per_epoch)

    def before_step(self, step: int) -> None:
        """Tell each."""
        for hook in self._hooks:
            hook.before_step(step)

    def before_update(self, step: int) -> None:
        """Tell each."""
        for hook in self._hooks:
            hook.before_update(step)

    def after_update(self, step: int) -> None:
        """Tell each."""
        for hook in self._hooks:
            hook.after_update(step)

    def before_judging(self) -> None:
        """Tell each."""
        for hook in self._hooks:
            hook.before_judging()

    def after_judging(self) -> None:
        """Tell each."""
        for hook in self._hooks:
            hook.after_judging()

    def finish(self) -> None:
        """Tell each."""
        for hook in self._hooks:
            hook.finish()

    def state(self) -> Mapping[str, Tensor]:
        """Return the states of all."""
        return {f"{hook.name}/{name}": each for hook in self._hooks for name, each in hook.state().items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Give each its own."""
        for hook in self._hooks:
            hook.restore(part(tensors, f"{hook.name}/"))


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
