"""Attention with dropout on the CPU.

No fused kernel of torch does dropout on a CPU; what runs instead draws one Bernoulli number per score, looks for rows
without any key, and copies. Here the same formula, in float32 as there, with the cheap random bits of `dropout` and a
backward pass written out.

Legend: B rows, H heads, T queries, S keys, D head size, N = B x H.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune_trainer.dropout import apply_mask, draw_mask, scale_of, threshold_of


def attend(  # noqa: PLR0913 - those of scaled_dot_product_attention
    query_BHTD: Tensor, key_BHSD: Tensor, value_BHSD: Tensor, mask: Tensor | None, *, dropout_p: float, scaling: float
) -> Tensor:
    """Mix values by attention.

    Args:
        query_BHTD: What looks.
        key_BHSD: What is looked at; as many heads as the query.
        value_BHSD: What is mixed.
        mask: True, or a number to add to the score, where a query may look at a key, broadcast to [B, H, T, S].
        dropout_p: Part of the weights to drop.
        scaling: Multiplies the scores.

    Returns:
        [B, H, T, D].
    """
    if dropout_p in {0.0, 1.0} or query_BHTD.device.type != "cpu":
        return F.scaled_dot_product_attention(
            query_BHTD, key_BHSD, value_BHSD, attn_mask=mask, dropout_p=dropout_p, scale=scaling
        )
    if mask is not None and mask.dtype == torch.bool:
        lowest = torch.finfo(torch.float32).min
        mask = torch.zeros(mask.shape, dtype=torch.float32).masked_fill_(~mask, lowest)
    return _Attend.apply(query_BHTD, key_BHSD, value_BHSD, mask, threshold_of(dropout_p), scaling)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 - autograd passes arguments by position
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, threshold: int, scaling: float
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            shape = query.shape
            query_NTD, key_NSD, value_NSD = (each.float().reshape(-1, *each.shape[2:]) for each in (query, key, value))
            query_NTD = query_NTD * scaling
            scores_NTS = torch.bmm(query_NTD, key_NSD.transpose(1, 2))
            if mask is not None:
                scores_NTS.view(*shape[:3], -1).add_(mask)
            weights_NTS = torch.softmax(scores_NTS, dim=-1)
            kept_NTS = draw_mask(weights_NTS.shape, threshold, weights_NTS.dtype)
            ctx.save_for_backward(query_NTD, key_NSD, value_NSD, weights_NTS, kept_NTS)
            ctx.scale, ctx.scaling, ctx.shape = scale_of(threshold), scaling, shape
            mixed_NTD = torch.bmm(apply_mask(weights_NTS, kept_NTS), value_NSD).mul_(ctx.scale)
            return mixed_NTD.view(shape).to(query.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        query_NTD, key_NSD, value_NSD, weights_NTS, kept_NTS = ctx.saved_tensors
        grad_NTD = grads[0].float().reshape(query_NTD.shape) * ctx.scale
        grad_value = torch.bmm(apply_mask(weights_NTS, kept_NTS).transpose(1, 2), grad_NTD)
        grad_weights = apply_mask(torch.bmm(grad_NTD, value_NSD.transpose(1, 2)), kept_NTS)
        grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights_NTS, -1, torch.float32)  # noqa: SLF001 - softmax's own
        grad_query = torch.bmm(grad_scores, key_NSD).mul_(ctx.scaling)
        grad_key = torch.bmm(grad_scores.transpose(1, 2), query_NTD)
        batch, heads = ctx.shape[:2]
        query, key, value = (each.unflatten(0, (batch, heads)) for each in (grad_query, grad_key, grad_value))
        return query, key, value, None, None, None
