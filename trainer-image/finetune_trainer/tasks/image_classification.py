"""One label for an image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune_api.spec import Augmentation, FineTuneJobSpec
from finetune_trainer.data.augment import View, view
from finetune_trainer.data.formats import Row
from finetune_trainer.data.image_settings import ImageSettings
from finetune_trainer.data.media import source_of
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read, labels_of
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import TokenTable, media_table
from finetune_trainer.objectives import ClassLoss
from finetune_trainer.tasks.base import Answer, Batch, Encoded, HeadSpec, Piece, Predictions, dense
from finetune_trainer.tasks.labels import (
    class_number,
    classifier_config,
    find_labels,
    likeliest,
    one_label_metrics,
    one_label_predictions,
)
from finetune_trainer.tasks.scoring import Kind, Scored, own_loss
from finetune_trainer.tasks.views import image_piece

load_processor = ImageSettings.load


@dataclass(frozen=True, slots=True)
class ImageClassification:
    """One of `labels`; augmented rows may have parts of two."""

    labels: tuple[str, ...]
    settings: ImageSettings
    augmentation: Augmentation
    label_smoothing: float
    seed: int
    name: str = "image-classification"
    metric_names: tuple[str, ...] = ("loss", "accuracy", "precision", "recall", "f1")

    @property
    def head(self) -> HeadSpec:
        """A classifier over the labels, named in the model's config."""
        return HeadSpec(
            "image-classification",
            {
                **classifier_config(self.labels),
                "problem_type": "single_label_classification",
            },
        )

    def fingerprint(self) -> Mapping[str, Any]:
        """Labels decide the dense column."""
        return {"labels": self.labels}

    def encode(self, examples: Sequence[Example], processor: ImageSettings, max_length: int, /) -> Encoded:  # noqa: ARG002
        """Return `labels` as class numbers, [N, 1]; every image has the same length."""
        index = {label: number for number, label in enumerate(self.labels)}
        labels = np.array(
            [[class_number(index, str(example.label), example)] for example in examples], dtype=np.float32
        )
        return Encoded(media_table([processor.tokens] * len(examples), {"labels": labels}), examples, (), 0)

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:
        """Return pixel_values [B, 3, H, W] and labels [B]; for training also partner labels [B] and own shares [B]."""
        column = table.media["image"]

        def seen(row: int) -> View:
            if epoch is None:
                return View(self.settings.normalised(self.settings.whole(column.decoded(row))), row)
            return view(column, self.settings, self.augmentation, row, (self.seed, epoch))

        views = column.map(seen, rows)
        labels = torch.from_numpy(dense(table, "labels", rows))[:, 0].long()
        tensors = {"pixel_values": torch.from_numpy(np.stack([each.pixels for each in views])), "labels": labels}
        if epoch is not None and any(each.share < 1.0 for each in views):
            partners = np.array([each.partner for each in views], dtype=np.int64)
            tensors["partners"] = torch.from_numpy(dense(table, "labels", partners))[:, 0].long()
            tensors["shares"] = torch.tensor([each.share for each in views], dtype=torch.float32)
        return Batch(tensors, rows)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:  # noqa: ARG002
        """Rows."""
        return float(len(rows))

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy; of both labels, by their shares, where two images are mixed."""
        return own_loss(self, model, batch)

    @property
    def kind(self) -> Kind:
        """Classes that exclude each other."""
        return "one"

    def scored(self, model: nn.Module, batch: Batch) -> Scored:
        """Return the scores of each image."""
        targets = {name: batch.tensors[name] for name in ("labels", "partners", "shares") if name in batch.tensors}
        return Scored(model(**batch.inputs()).logits, nn.Identity(), targets)

    def losses(self, scores_KC: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Return each image's loss."""
        loss = ClassLoss(self.label_smoothing)
        own = loss.one_of(scores_KC, targets["labels"])
        if "shares" not in targets:
            return own
        shares = targets["shares"]
        return shares * own + (1.0 - shares) * loss.one_of(scores_KC, targets["partners"])

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return `scores` [B, C], `labels` and each row's `loss`."""
        return one_label_predictions(model(**batch.inputs()).logits.float(), batch.tensors["labels"])

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:  # noqa: ARG002
        """Return loss, accuracy, and precision, recall and F1 averaged over the labels."""
        return one_label_metrics(predictions)

    def pieces(self, table: TokenTable, row: int, processor: ImageSettings, /) -> Sequence[Piece]:
        """Return what the image is called, its size, and the size in which the model sees it."""
        return [image_piece(table, row, processor)]

    def label_text(self, example: Example) -> str:
        """Return the label."""
        return str(example.label)

    def ask(self, columns: Columns) -> Read:
        """Read an image; any label does, since its loss is not told."""
        image = columns.need("image")
        return lambda row: Example(row, label=self.labels[0], media={"image": source_of(row, image)})

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:  # noqa: ARG002
        """Return the likeliest `label`, its `score`, and each label's probability as `scores`."""
        return [likeliest(self.labels, row) for row in predictions["scores"].astype(np.float64)]

    def kept(self) -> Mapping[str, Any]:
        """Return the labels."""
        return {"labels": list(self.labels)}


def read(columns: Columns) -> Read:
    """Read an image and its label."""
    image, label = columns.need("image"), columns.need("label")

    def one(row: Row) -> Example:
        found = labels_of(row, label)
        if isinstance(found, tuple):
            row.refuse(f"column {label!r} holds a list", "Write one label there.")
        return Example(row, label=found, media={"image": source_of(row, image)})

    return one


def build(spec: FineTuneJobSpec, splits: Splits, processor: ImageSettings, /) -> ImageClassification:
    """Find the labels in the training rows.

    Args:
        spec: The manifest's.
        splits: All sets.
        processor: What the model says of its images.

    Returns:
        The task.

    Raises:
        DataError: There are fewer than two labels, or a held-out row has one that training never sees.
    """  # noqa: DOC502
    return restore(spec, {"labels": find_labels(splits, least=2)}, processor)


def restore(spec: FineTuneJobSpec, kept: Mapping[str, Any], processor: ImageSettings, /) -> ImageClassification:
    """Return the task for its labels."""
    training = spec.training
    return ImageClassification(
        tuple(kept["labels"]),
        processor,
        training.augmentation or Augmentation(),
        training.label_smoothing,
        training.seed,
    )
