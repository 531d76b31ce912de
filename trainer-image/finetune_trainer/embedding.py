"""Embeddings whose gradient is written only where a token occurred.

torch makes a new tensor as large as the table in every backward pass: 47 MB of zeros for a small encoder, of which a
batch changes some hundred rows. Here one such tensor is kept, and only the rows of the step before are set to zero.
The gradient is the same; AdamW still moves every row, as its momentum demands.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, table: "RowEmbedding") -> Tensor:
        ctx.save_for_backward(ids)
        ctx.table = table
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        ctx.table.add_gradient(ctx.saved_tensors[0], grads[0])
        return None, None, None


class RowEmbedding(nn.Embedding):
    """nn.Embedding for trained tables on the CPU; elsewhere nn.Embedding itself."""

    _shared: bool
    _kept: Tensor | None
    _touched: list[Tensor]

    def start(self, *, shared: bool) -> None:
        """Begin without a gradient; with `shared`, another layer uses the same table and may add to any row."""
        self._shared, self._kept, self._touched = shared, None, []

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Embedding's name
        """Return the rows of the given ids."""
        plain = self.max_norm is None and not self.scale_grad_by_freq and not self.sparse
        if not plain or not self.weight.requires_grad or self.weight.device.type != "cpu":
            return super().forward(input)
        return _Lookup.apply(self.weight, input, self)

    def add_gradient(self, ids: Tensor, grad: Tensor) -> None:
        """Add the gradient of looked-up rows to the table's.

        Args:
            ids: What was looked up.
            grad: Its gradient, one dimension more.
        """
        rows, place = torch.unique(ids, return_inverse=True)
        flat = grad.reshape(-1, self.embedding_dim).to(self.weight.dtype)
        summed = torch.ops.aten.embedding_dense_backward(flat, place.reshape(-1), len(rows), -1, False)
        if self.padding_idx is not None:
            summed[rows == self.padding_idx] = 0.0
        if self.weight.grad is None:
            self.weight.grad = self._cleared()
            self.weight.grad[rows] = summed
        else:
            self.weight.grad[rows] += summed
        self._touched.append(rows)

    def _cleared(self) -> Tensor:
        if self._kept is None:
            self._kept = torch.zeros_like(self.weight)
        elif self._shared:
            self._kept.zero_()
        else:
            for rows in self._touched:
                self._kept[rows] = 0.0
        self._touched = []
        return self._kept


def use_row_gradients(model: nn.Module) -> None:
    """Replace every nn.Embedding of a model, its weights untouched."""
    users: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    for module in model.modules():
        if type(module) is nn.Embedding:
            module.__class__ = RowEmbedding
            assert isinstance(module, RowEmbedding), "internal: the class was set above"
            module.start(shared=users[id(module.weight)] > 1)
