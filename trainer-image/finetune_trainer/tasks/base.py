"""What a task is to the rest of the trainer: data in, a loss as a sum, predictions per row, metrics.

Legend: B rows of a batch, T tokens, V vocabulary, C classes, S packed sequences, K supervised tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Example
from finetune_trainer.data.table import Array, TokenTable
from finetune_trainer.data.tokenizer import Tokenizer

IGNORE = -100
Predictions = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """Which head a task needs (sequence-classification, causal-lm, masked-lm), and what it sets in the config."""

    kind: str
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that cannot be used, and why."""

    example: Example
    reason: str


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tokenised set: row i of the table is `examples[i]`; `cut` rows were longer than allowed."""

    table: TokenTable
    examples: Sequence[Example]
    refused: Sequence[Refused]
    cut: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one pass, and the rows they came from."""

    tensors: Mapping[str, Tensor]
    rows: Rows

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        if device.type == "cpu":
            return self
        return Batch({name: each.to(device, non_blocking=True) for name, each in self.tensors.items()}, self.rows)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a sample as the model sees it, and whether its tokens are learned."""

    text: str
    supervised: bool


class Task(Protocol):
    """One kind of learning problem."""

    @property
    def name(self) -> str:
        """Key of the registry."""
        ...

    @property
    def head(self) -> HeadSpec:
        """The head that the model needs."""
        ...

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Every metric that `metrics` returns."""
        ...

    def fingerprint(self) -> Mapping[str, Any]:
        """Return what decides the encoding, for the cache's key."""
        ...

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer, max_length: int) -> Encoded:
        """Tokenise examples."""
        ...

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:
        """Pad rows to a batch; `epoch` seeds what is random in it, None is for evaluation."""
        ...

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:
        """Return the number of supervised elements of rows: what a loss sum is divided by."""
        ...

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss in nats, summed over the batch's supervised elements: a scalar."""
        ...

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return arrays whose first dimension is the batch's rows."""
        ...

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """Return the metrics of all rows together."""
        ...

    def pieces(self, table: TokenTable, row: int, tokenizer: Tokenizer) -> Sequence[Piece]:
        """Return one row as the model sees it."""
        ...

    def label_text(self, example: Example) -> str:
        """Return what is to be learned from an example, as text."""
        ...


def pad(table: TokenTable, column: str, rows: Rows, fill: int) -> Tensor:
    """Return rows of a ragged column as one int64 tensor.

    Args:
        table: The tokenised rows.
        column: Name of a ragged column.
        rows: Row numbers, [B].
        fill: Value right of each row's end.

    Returns:
        [B, T], T the longest of the rows.
    """
    lengths = table.lengths[rows]
    out = np.full((len(rows), int(lengths.max())), fill, dtype=np.int64)
    for at, row in enumerate(rows):
        out[at, : lengths[at]] = table.row(column, int(row))
    return torch.from_numpy(out)


def attention_mask(table: TokenTable, rows: Rows) -> Tensor | None:
    """Return 1 where a token is, 0 where padding is, [B, T] int64; None when nothing is padded."""
    lengths = table.lengths[rows]
    longest = int(lengths.max())
    if int(lengths.min()) == longest:
        return None
    return torch.from_numpy((np.arange(longest)[None, :] < lengths[:, None]).astype(np.int64))


def dense(table: TokenTable, column: str, rows: Rows) -> npt.NDArray[np.float32]:
    """Return rows of a dense column, [B, width]."""
    return np.asarray(table.dense[column][rows], dtype=np.float32)
