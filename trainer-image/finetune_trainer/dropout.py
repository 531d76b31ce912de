"""Dropout with cheap random bits on the CPU.

torch draws one Bernoulli number per element there, 10 % of a small encoder's step. Here 16 random bits per element
decide, four elements per 64-bit draw of torch's own generator, so `torch.manual_seed` still decides everything. The
probability is rounded to a multiple of 2^-16, and the scale matches the rounded one: the expectation is exact.
"""

from typing import Any

import torch
from torch import Tensor, nn

_LEVELS = 1 << 16


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: int) -> Tensor:
        count = x.numel()
        bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        kept = (bits.view(torch.int16)[:count] >= threshold - _LEVELS // 2).view(x.shape)
        scale = _LEVELS / (_LEVELS - threshold)
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return torch.where(kept, x * scale, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return torch.where(kept, grads[0] * ctx.scale, 0.0), None


class CheapDropout(nn.Dropout):
    """nn.Dropout for tensors on the CPU; elsewhere nn.Dropout itself."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Dropout's name
        """Zero elements with probability p and scale the others by 1/(1-p)."""
        if not self.training or self.p == 0.0 or input.device.type != "cpu":
            return super().forward(input)
        return _Dropped.apply(input, round(self.p * _LEVELS))


def use_cheap_dropout(model: nn.Module) -> None:
    """Replace every nn.Dropout of a model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, CheapDropout(child.p))
