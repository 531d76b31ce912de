"""A number for a text or a pair of texts, learned as it stands in the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read, number_of
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import TokenTable
from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.objectives import error_losses
from finetune_trainer.tasks import metrics
from finetune_trainer.tasks.base import Answer, Batch, Encoded, HeadSpec, Piece, Predictions, dense
from finetune_trainer.tasks.scoring import Kind, Scored, own_loss
from finetune_trainer.tasks.text_encoder import collate_texts, encode_texts, pooled_logits, read_texts, text_pieces


@dataclass(frozen=True, slots=True)
class TextRegression:
    """The error of one output, squared unless another kind is wanted."""

    pad_id: int = 0
    loss: str = "squared-error"
    delta: float = 1.0
    name: str = "text-regression"
    metric_names: tuple[str, ...] = ("loss", "mae", "rmse", "r2", "pearson")

    @property
    def head(self) -> HeadSpec:
        """One output."""
        return HeadSpec(
            "sequence-classification", {"num_labels": 1, "problem_type": "regression", "pad_token_id": self.pad_id}
        )

    def fingerprint(self) -> Mapping[str, Any]:
        """Nothing beyond the texts decides the encoding."""
        return {}

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer, max_length: int) -> Encoded:
        """Tokenise the texts; `labels` is [N, 1] numbers."""
        labels = np.array([[example.label] for example in examples], dtype=np.float32).reshape(len(examples), 1)
        return encode_texts(examples, tokenizer, max_length, labels)

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:  # noqa: ARG002 - nothing is random
        """Return input_ids, attention_mask, token_type_ids where needed, and labels."""
        return collate_texts(table, rows, self.pad_id, torch.from_numpy(dense(table, "labels", rows)[:, 0]))

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:  # noqa: ARG002
        """One number per row."""
        return float(len(rows))

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """The kind of error that is wanted."""
        return own_loss(self, model, batch)

    @property
    def kind(self) -> Kind:
        """One number."""
        return "number"

    def scored(self, model: nn.Module, batch: Batch) -> Scored:
        """Return the number said of each row."""
        return Scored(pooled_logits(model, batch), nn.Identity(), {"labels": batch.tensors["labels"]})

    def losses(self, scores_KC: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Return each row's error."""
        return error_losses(self.loss, scores_KC[:, 0] - targets["labels"], self.delta)

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return the `predicted` numbers, the `labels` and each row's `loss`."""
        error = self._errors(model, batch)
        labels = batch.tensors["labels"]
        return {
            "predicted": (error + labels).cpu().numpy(),
            "labels": labels.cpu().numpy(),
            "loss": error_losses(self.loss, error, self.delta).cpu().numpy(),
        }

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:  # noqa: ARG002
        """Return loss (the mean of what is minimised), mae, rmse, r2 and pearson."""
        loss = float(predictions["loss"].astype(np.float64).mean())
        return {"loss": loss} | metrics.regression(predictions["predicted"], predictions["labels"])

    def pieces(self, table: TokenTable, row: int, tokenizer: Tokenizer) -> Sequence[Piece]:
        """Return the whole text: the number is what is learned."""
        return text_pieces(table, row, tokenizer)

    def label_text(self, example: Example) -> str:
        """Return the number."""
        return f"{example.label}"

    def ask(self, columns: Columns) -> Read:
        """Read a text or a pair."""
        return read_texts(columns, lambda _: 0.0)

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:  # noqa: ARG002
        """Return the `score`."""
        return [{"score": float(each)} for each in predictions["predicted"]]

    def _errors(self, model: nn.Module, batch: Batch) -> Tensor:
        return pooled_logits(model, batch)[:, 0].float() - batch.tensors["labels"]


def read(columns: Columns) -> Read:
    """Read a text or a pair, and a number."""
    label = columns.need("label")
    return read_texts(columns, lambda row: number_of(row, label))


def build(spec: FineTuneJobSpec, splits: Splits, tokenizer: Tokenizer) -> TextRegression:  # noqa: ARG001 - the rows
    """Nothing is learned from the rows."""
    training = spec.training
    return TextRegression(tokenizer.pad_id, training.loss or "squared-error", training.huber_delta or 1.0)
