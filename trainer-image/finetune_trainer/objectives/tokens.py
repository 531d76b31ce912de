"""Losses as sums, so that they can be divided by the global count once.

Legend: K supervised tokens, H hidden size, V vocabulary, B rows, C choices, T frames of sound.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

_CHUNK_ELEMENTS = 64 * 1024 * 1024


def token_losses(
    hidden_KH: Tensor, targets_K: Tensor, head: Callable[[Tensor], Tensor], label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Score hidden states of supervised tokens.

    The scores of all tokens at once would take K x V floats, twice; chunks are recomputed in the backward pass instead
    when they are many.

    Args:
        hidden_KH: Last hidden state at the positions that predict.
        targets_K: Token ids to predict.
        head: Hidden states to scores, [*, H] to [*, V].
        label_smoothing: Probability spread over the vocabulary.

    Returns:
        Loss of each token in nats, [K], and whether the highest score is the target's, [K].
    """

    def part(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(hidden).float()
        losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
        return losses, logits.detach().argmax(dim=-1) == targets

    if len(targets_K) == 0:
        return hidden_KH.sum(dim=-1), targets_K.bool()
    vocabulary = _width(head, hidden_KH)
    rows = max(1, _CHUNK_ELEMENTS // vocabulary)
    if len(targets_K) <= rows:
        return part(hidden_KH, targets_K)
    pairs = zip(hidden_KH.split(rows), targets_K.split(rows), strict=True)
    results = [checkpoint(part, hidden, targets, use_reentrant=False) for hidden, targets in pairs]
    losses, right = zip(*results, strict=True)
    return torch.cat(losses), torch.cat(right)


def choice_losses(scores_BC: Tensor, right_B: Tensor, label_smoothing: float) -> Tensor:
    """Return the cross-entropy of each row over the choices that it has.

    Args:
        scores_BC: Unnormalised; minus infinity where a row has no such choice.
        right_B: The right choice.
        label_smoothing: Probability spread over a row's choices.

    Returns:
        Loss of each row in nats, [B].
    """
    log_BC = F.log_softmax(scores_BC, dim=-1)
    loss_B = -log_BC.gather(1, right_B[:, None])[:, 0]
    if label_smoothing == 0.0:
        return loss_B
    possible_BC = scores_BC > -torch.inf
    mean_B = -log_BC.masked_fill(~possible_BC, 0.0).sum(dim=-1) / possible_BC.sum(dim=-1)
    return (1.0 - label_smoothing) * loss_B + label_smoothing * mean_B


def ctc_losses(logits_BTV: Tensor, frames_B: Tensor, targets_BK: Tensor, counts_B: Tensor, blank: int) -> Tensor:
    """Return minus the log-probability of each row's letters, over all ways to lay them onto its frames (CTC).

    Args:
        logits_BTV: Unnormalised scores of T frames.
        frames_B: Frames of each row that count.
        targets_BK: Letters, in any padding.
        counts_B: Letters of each row.
        blank: Number of what stands for no letter.

    Returns:
        Loss of each row in nats, [B]; infinite where the frames are too few.
    """
    log_TBV = F.log_softmax(logits_BTV.float(), dim=-1).transpose(0, 1)
    return F.ctc_loss(log_TBV, targets_BK, frames_B, counts_B, blank=blank, reduction="none")


def _width(head: Callable[[Tensor], Tensor], hidden_KH: Tensor) -> int:
    with torch.no_grad():
        return head(hidden_KH[:1]).shape[-1]
