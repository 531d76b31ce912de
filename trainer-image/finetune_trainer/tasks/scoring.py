"""Tasks whose loss is a function of scores, so that a term can compare them with other scores of the same elements.

Legend: K supervised elements of a batch (rows, words or tokens), H hidden size, C classes, labels or tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.table import TokenTable
from finetune_trainer.tasks.base import Batch, Count

Kind = Literal["one", "any", "number"]
"""What scores are: of classes that exclude each other, of labels any of which may hold, or one number."""
COUNTS = "counts"
"""The target that says how much an element counts, where that is not 1."""
_CHUNK_ELEMENTS = 64 * 1024 * 1024


class Learned(Protocol):
    """What a step minimises: the part of a task that the loop, the certificates and the terms see."""

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:
        """Return rows as a batch."""
        ...

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> Count:
        """Return what the loss sum of rows is divided by."""
        ...

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss, summed over the batch's supervised elements."""
        ...


@dataclass(frozen=True, slots=True)
class Scored:
    """What a model says of the supervised elements of a batch, one step before the scores."""

    hidden: Tensor
    """[K, H]."""
    head: Callable[[Tensor], Tensor]
    """From [*, H] to scores, [*, C]."""
    targets: Mapping[str, Tensor]
    """What is to be said of them; the first dimension is K."""


@runtime_checkable
class Scoring(Learned, Protocol):
    """Such a task; `loss_sum` is the sum of `losses` over what `scored` returns."""

    @property
    def kind(self) -> Kind:
        """What its scores are."""
        ...

    def scored(self, model: nn.Module, batch: Batch) -> Scored:
        """Run the model."""
        ...

    def losses(self, scores_KC: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of each element, summed over its labels, [K]."""
        ...


def total(loss: Callable[..., Tensor], *sides: Scored) -> Tensor:
    """Sum a loss over the elements of a batch.

    Scores over a vocabulary take K x C floats for each side, several times; chunks are recomputed in the backward pass
    when they are many.

    Args:
        loss: From the scores of each side, [K, C], and the first one's targets to the loss of each element, [K].
        *sides: What models, or passes of one model, say of the same elements.

    Returns:
        A scalar.
    """

    def part(*chunk: Tensor) -> Tensor:
        hidden, targets = chunk[: len(sides)], chunk[len(sides) :]
        scores = [side.head(each).float() for side, each in zip(sides, hidden, strict=True)]
        return loss(*scores, dict(zip(sides[0].targets, targets, strict=True))).sum()

    columns = [*(side.hidden for side in sides), *sides[0].targets.values()]
    elements = len(columns[0])
    if elements == 0:
        return columns[0].sum()
    with torch.no_grad():
        width = sides[0].head(columns[0][:1]).shape[-1]
    rows = max(1, _CHUNK_ELEMENTS // (width * len(sides)))
    if elements <= rows:
        return part(*columns)
    pieces: Sequence[Sequence[Tensor]] = list(zip(*(each.split(rows) for each in columns), strict=True))
    return torch.stack([checkpoint(part, *piece, use_reentrant=False) for piece in pieces]).sum()


def own_loss(task: Scoring, model: nn.Module, batch: Batch) -> Tensor:
    """Return a task's loss sum by its scores."""
    return total(task.losses, task.scored(model, batch))
