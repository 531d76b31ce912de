"""Optimisers over named parameters: one rule each for moving a group, the same bookkeeping for all.

Biases and normalisation weights (one dimension) do not decay; decay is decoupled from the gradient in all of them.
Each parameter counts its own moves, since gradual unfreezing leaves some out of a step.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim._adafactor import adafactor
from torch.optim.adamw import adamw


class Optimizer:
    """Keeps named tensors (slots) beside each parameter and moves those that have a gradient."""

    slots: tuple[str, ...]

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], weight_decay: float, rates: Mapping[str, float] | None = None
    ) -> None:
        """Start with empty slots.

        Args:
            parameters: What is trained.
            weight_decay: Of the parameters with more than one dimension.
            rates: What multiplies the learning rate of some parameters.
        """
        self._parameters = parameters
        self._groups: dict[tuple[float, float], list[str]] = {}
        for name, each in parameters.items():
            key = (weight_decay if each.ndim > 1 else 0.0, (rates or {}).get(name, 1.0))
            self._groups.setdefault(key, []).append(name)
        self._slots = {
            slot: {name: self._empty(slot, each) for name, each in parameters.items()} for slot in self.slots
        }
        self._moves = {name: torch.zeros((), device=each.device) for name, each in parameters.items()}

    def state(self) -> dict[str, Tensor]:
        """Return the slots, and how often each parameter was moved."""
        kept = {f"{slot}/{name}": each for slot, found in self._slots.items() for name, each in found.items()}
        return kept | {"moves": torch.stack(list(self._moves.values()))}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        for slot, found in self._slots.items():
            for name, each in found.items():
                each.copy_(tensors[f"{slot}/{name}"])
        for each, moves in zip(self._moves.values(), tensors["moves"], strict=True):
            each.copy_(moves)

    def step(self, rate: float) -> None:
        """Move every parameter that has a gradient, and drop the gradients."""
        with torch.no_grad():
            for (weight_decay, factor), names in self._groups.items():
                found = [name for name in names if self._parameters[name].grad is not None]
                if found:
                    self._move(found, rate * factor, weight_decay)
        for each in self._parameters.values():
            each.grad = None

    def _empty(self, slot: str, parameter: Tensor) -> Tensor:  # noqa: ARG002 - Adafactor's slots differ in shape
        return torch.zeros_like(parameter)

    def _move(self, names: Sequence[str], rate: float, weight_decay: float) -> None:
        raise NotImplementedError

    def _of(self, names: Sequence[str]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return parameters, gradients and counts of moves."""
        parameters: list[Tensor] = [self._parameters[name] for name in names]
        gradients = [each.grad for each in parameters if each.grad is not None]
        return parameters, gradients, [self._moves[name] for name in names]

    def _kept(self, slot: str, names: Sequence[str]) -> list[Tensor]:
        return [self._slots[slot][name] for name in names]


class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019), by torch's fused kernel.

    torch.optim.AdamW does the same around the same kernel, and imports torch's compiler at its first use.
    """

    slots = ("exp_avg", "exp_avg_sq")

    def _move(self, names: Sequence[str], rate: float, weight_decay: float) -> None:
        parameters, gradients, moves = self._of(names)
        adamw(
            parameters,
            gradients,
            self._kept("exp_avg", names),
            self._kept("exp_avg_sq", names),
            [],
            moves,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=rate,
            weight_decay=weight_decay,
            eps=1e-8,
            maximize=False,
        )


class SGD(Optimizer):
    """Gradient descent with momentum 0.9: one number per weight beside it."""

    slots = ("momentum",)

    def _move(self, names: Sequence[str], rate: float, weight_decay: float) -> None:
        for parameter, gradient, moves, momentum in zip(*self._of(names), self._kept("momentum", names), strict=True):
            momentum.mul_(0.9).add_(gradient)
            parameter.mul_(1.0 - rate * weight_decay).add_(momentum, alpha=-rate)
            moves.add_(1.0)


class Lion(Optimizer):
    """Lion (Chen et al. 2023): the sign of an interpolated momentum; one number per weight beside it."""

    slots = ("momentum",)

    def _move(self, names: Sequence[str], rate: float, weight_decay: float) -> None:
        for parameter, gradient, moves, momentum in zip(*self._of(names), self._kept("momentum", names), strict=True):
            direction = momentum.lerp(gradient, 1.0 - 0.9).sign_()
            parameter.mul_(1.0 - rate * weight_decay).add_(direction, alpha=-rate)
            momentum.lerp_(gradient, 1.0 - 0.99)
            moves.add_(1.0)


class Adafactor(Optimizer):
    """Adafactor (Shazeer and Stern 2018), torch's: a row and a column per matrix instead of moments."""

    slots = ("row", "column", "variance")

    def _empty(self, slot: str, parameter: Tensor) -> Tensor:
        matrix = parameter.ndim > 1
        shape = {
            "row": (*parameter.shape[:-1], 1) if matrix else (0,),
            "column": (*parameter.shape[:-2], 1, parameter.shape[-1]) if matrix else (0,),
            "variance": (0,) if matrix else parameter.shape,
        }[slot]
        return parameter.new_zeros(shape)

    def _move(self, names: Sequence[str], rate: float, weight_decay: float) -> None:
        parameters, gradients, moves = self._of(names)
        adafactor(
            parameters,
            gradients,
            [*self._kept("row", names)],
            [*self._kept("column", names)],
            [*self._kept("variance", names)],
            moves,
            foreach=False,
            d=1.0,
            lr=rate,
            beta2_decay=-0.8,
            weight_decay=weight_decay,
            eps1=None,  # pyright: ignore[reportArgumentType] - torch's own default: the format's epsilon
            eps2=1e-3,
            maximize=False,
        )


OPTIMIZERS: Mapping[str, type[Optimizer]] = {"adamw": AdamW, "sgd": SGD, "lion": Lion, "adafactor": Adafactor}
