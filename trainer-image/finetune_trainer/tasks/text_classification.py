"""A label for a text or a pair of texts: exactly one, or any number of them (multi label)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune_api.spec import FineTuneJobSpec, Training
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read, labels_of
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import Array, TokenTable
from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.errors import ConfigError
from finetune_trainer.objectives import ClassLoss, balanced_weights
from finetune_trainer.tasks import metrics
from finetune_trainer.tasks.base import Answer, Batch, Encoded, HeadSpec, Piece, Predictions, dense
from finetune_trainer.tasks.labels import as_tuple, class_number, classifier_config, find_labels, likeliest
from finetune_trainer.tasks.scoring import COUNTS, Kind, Scored, own_loss
from finetune_trainer.tasks.text_encoder import collate_texts, encode_texts, pooled_logits, read_texts, text_pieces


@dataclass(frozen=True, slots=True)
class TextClassification:
    """One label of `labels`, or any of them when `multi`."""

    labels: tuple[str, ...]
    multi: bool
    loss: ClassLoss = field(default_factory=ClassLoss)
    pad_id: int = 0
    name: str = "text-classification"
    metric_names: tuple[str, ...] = ("loss", "accuracy", "precision", "recall", "f1")

    @property
    def head(self) -> HeadSpec:
        """A classifier over the labels, named in the model's config."""
        return HeadSpec(
            "sequence-classification",
            {
                **classifier_config(self.labels),
                "problem_type": "multi_label_classification" if self.multi else "single_label_classification",
                "pad_token_id": self.pad_id,
            },
        )

    def fingerprint(self) -> Mapping[str, Any]:
        """Labels decide the dense column."""
        return {"labels": self.labels, "multi": self.multi}

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer, max_length: int) -> Encoded:
        """Tokenise the texts; `labels` is [N, 1] class numbers, or [N, C] of 0 and 1."""
        index = {label: number for number, label in enumerate(self.labels)}
        labels = np.zeros((len(examples), len(self.labels) if self.multi else 1), dtype=np.float32)
        for row, example in enumerate(examples):
            if self.multi:
                for label in as_tuple(example.label):
                    labels[row, class_number(index, label, example)] = 1.0
            else:
                labels[row, 0] = class_number(index, str(example.label), example)
        return encode_texts(examples, tokenizer, max_length, labels)

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:  # noqa: ARG002 - nothing is random
        """Return input_ids, attention_mask, token_type_ids where needed, and labels."""
        labels = torch.from_numpy(dense(table, "labels", rows))
        return collate_texts(table, rows, self.pad_id, labels if self.multi else labels[:, 0].long())

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:  # noqa: ARG002
        """Rows, each as often as its class counts, or rows times labels when any number of labels may hold."""
        labels = table.dense["labels"]
        return float(len(rows) * labels.shape[1]) if self.multi else self.loss.count(labels[rows, 0])

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy, or binary cross-entropy of each label, weighted or focal as wanted."""
        return own_loss(self, model, batch)

    @property
    def kind(self) -> Kind:
        """Classes that exclude each other, or labels any of which may hold."""
        return "any" if self.multi else "one"

    def scored(self, model: nn.Module, batch: Batch) -> Scored:
        """Return the scores of each row."""
        labels = batch.tensors["labels"]
        counts = {} if self.multi or self.loss.weights is None else {COUNTS: self.loss.counts(labels)}
        return Scored(pooled_logits(model, batch), nn.Identity(), {"labels": labels, **counts})

    def losses(self, scores_KC: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Return each row's loss."""
        losses = self._losses(scores_KC, targets["labels"], self.loss)
        return losses.sum(dim=1) if self.multi else losses

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return `scores` [B, C], `labels` and each row's mean `loss`."""
        # NumPy has no bfloat16, and the metrics are computed in float32 anyway.
        logits_BC = pooled_logits(model, batch).float()
        labels = batch.tensors["labels"]
        losses = self._losses(logits_BC, labels, ClassLoss())
        loss = losses.mean(dim=1) if self.multi else losses
        return {"scores": logits_BC.cpu().numpy(), "labels": labels.cpu().numpy(), "loss": loss.cpu().numpy()}

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:  # noqa: ARG002
        """Return loss, accuracy, precision, recall and F1."""
        judge = metrics.multi_label if self.multi else metrics.single_label
        loss = float(predictions["loss"].astype(np.float64).mean())
        return {"loss": loss} | judge(predictions["scores"], predictions["labels"])

    def pieces(self, table: TokenTable, row: int, tokenizer: Tokenizer) -> Sequence[Piece]:
        """Return the whole text: the label is what is learned."""
        return text_pieces(table, row, tokenizer)

    def label_text(self, example: Example) -> str:
        """Return the label or labels."""
        return ", ".join(as_tuple(example.label))

    def ask(self, columns: Columns) -> Read:
        """Read a text or a pair; any label does, since its loss is not told."""
        return read_texts(columns, lambda _: () if self.multi else self.labels[0])

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:  # noqa: ARG002
        """Return `label`, or `labels` when any number may hold, and each label's probability as `scores`."""
        return [self._answer(row) for row in predictions["scores"].astype(np.float64)]

    def kept(self) -> Mapping[str, Any]:
        """Return the labels."""
        return {"labels": list(self.labels), "multi": self.multi}

    def _answer(self, logits_C: Array) -> Answer:
        if self.multi:
            chances_C = 1.0 / (1.0 + np.exp(-logits_C))
            told = [label for label, logit in zip(self.labels, logits_C, strict=True) if logit > 0]
            return {"labels": told, "scores": dict(zip(self.labels, chances_C.tolist(), strict=True))}
        return likeliest(self.labels, logits_C)

    def _losses(self, logits_BC: Tensor, labels: Tensor, loss: ClassLoss) -> Tensor:
        return (loss.any_of if self.multi else loss.one_of)(logits_BC.float(), labels)


def read(columns: Columns) -> Read:
    """Read a text or a pair, and a label or a list of them."""
    label = columns.need("label")
    return read_texts(columns, lambda row: labels_of(row, label))


def build(spec: FineTuneJobSpec, splits: Splits, tokenizer: Tokenizer) -> TextClassification:
    """Find the labels in the training rows.

    Args:
        spec: The manifest's.
        splits: All sets.
        tokenizer: The model's.

    Returns:
        The task.

    Raises:
        ConfigError: Classes are to be weighted that are not there, or rows with any number of labels.
        DataError: There are fewer than two labels, or a held-out row has one that training never sees.
    """  # noqa: DOC503
    multi = any(isinstance(example.label, tuple) for rows in splits.named().values() for example in rows)
    task = restore(spec, {"labels": find_labels(splits, least=1 if multi else 2), "multi": multi}, tokenizer)
    if spec.training.balance_classes or spec.training.class_weights:
        if multi:
            raise ConfigError(
                "spec.training: rows with any number of labels have no class to count by",
                remedy="Remove classWeights and balanceClasses, or give one label per row.",
            )
        weights = _weights(spec.training, task.labels, splits.train)
        return replace(task, loss=replace(task.loss, weights=weights))
    return task


def restore(spec: FineTuneJobSpec, kept: Mapping[str, Any], tokenizer: Tokenizer) -> TextClassification:
    """Return the task for its labels."""
    return TextClassification(tuple(kept["labels"]), kept["multi"], _loss(spec.training), tokenizer.pad_id)


def _loss(training: Training) -> ClassLoss:
    gamma = 0.0 if training.loss != "focal" else 2.0 if training.focal_gamma is None else training.focal_gamma
    return ClassLoss(training.label_smoothing, gamma)


def _weights(training: Training, labels: Sequence[str], rows: Sequence[Example]) -> tuple[float, ...]:
    if training.balance_classes:
        counts = Counter(str(example.label) for example in rows)
        return balanced_weights([counts[label] for label in labels])
    given = training.class_weights or {}
    unknown = sorted(set(given) - set(labels))
    if unknown:
        raise ConfigError(
            f"spec.training.classWeights: no training row has the label {unknown[0]!r}",
            remedy=f"Choose from {', '.join(labels[:10])}.",
        )
    return tuple(given.get(label, 1.0) for label in labels)
