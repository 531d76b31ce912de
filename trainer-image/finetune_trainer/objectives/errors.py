"""The loss of a number: squared, absolute, or squared near zero and absolute beyond (Huber 1964)."""

from torch import Tensor
from torch.nn import functional as F


def error_losses(kind: str, error_B: Tensor, delta: float) -> Tensor:
    """Return the loss of each row.

    Args:
        kind: `squared-error`, `absolute-error` or `huber`.
        error_B: Prediction minus truth.
        delta: Where huber's loss turns from half a square into a line.

    Returns:
        [B].
    """
    if kind == "huber":
        return F.huber_loss(error_B, error_B.new_zeros(()).expand_as(error_B), reduction="none", delta=delta)
    return error_B.abs() if kind == "absolute-error" else error_B.square()
