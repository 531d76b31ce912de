"""Dropout with cheap random bits on the CPU.

torch draws one Bernoulli number per element there, 10 % of a small encoder's step. Here 16 random bits per element
decide, four elements per 64-bit draw of torch's own generator, so `torch.manual_seed` still decides everything. The
probability is rounded to a multiple of 2^-16, and the scale matches the rounded one: the expectation is exact.

Elements are dropped by a bitwise and with a mask of ones or zeros as wide as they are: integer operations are
vectorised for every width, `torch.where` and `masked_fill` are several times slower.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

LEVELS = 1 << 16
_WIDTHS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def threshold_of(probability: float) -> int:
    """Return how many of the 2^16 levels are dropped."""
    return round(probability * LEVELS)


def scale_of(threshold: int) -> float:
    """Return what kept elements are multiplied by, so that the expectation stays."""
    return LEVELS / (LEVELS - threshold)


def draw_mask(shape: Sequence[int], threshold: int, like: torch.dtype) -> Tensor:
    """Draw which elements stay.

    Args:
        shape: Shape of the elements.
        threshold: Levels of 2^16 that are dropped.
        like: Number format of the elements.

    Returns:
        Integers as wide as the elements: every bit set where an element stays, none where it is dropped.
    """
    count = math.prod(shape)
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    return bits.ge_(threshold - LEVELS // 2).neg_().to(_WIDTHS[like.itemsize]).view(*shape)


def apply_mask(x: Tensor, mask: Tensor) -> Tensor:
    """Zero the elements whose mask is empty."""
    return (x.view(mask.dtype) & mask).view(x.dtype)


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: int) -> Tensor:
        mask = draw_mask(x.shape, threshold, x.dtype)
        ctx.save_for_backward(mask)
        ctx.scale = scale_of(threshold)
        return apply_mask(x, mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return apply_mask(grads[0], mask).mul_(ctx.scale), None


class CheapDropout(nn.Dropout):
    """nn.Dropout for tensors on the CPU; elsewhere nn.Dropout itself."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Dropout's name
        """Zero elements with probability p and scale the others by 1/(1-p)."""
        if not self.training or self.p in {0.0, 1.0} or input.device.type != "cpu":
            return super().forward(input)
        return _Dropped.apply(input, threshold_of(self.p))


def use_cheap_dropout(model: nn.Module) -> None:
    """Replace every nn.Dropout of a model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, CheapDropout(child.p))
