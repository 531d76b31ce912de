"""Boxes of things in an image, and what they are.

Legend: B rows, Q queries of the model, N objects of the row with the most, C classes, K boxes that are judged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.augment import is_mirrored
from finetune_trainer.data.canvas import CanvasSettings
from finetune_trainer.data.formats import Row
from finetune_trainer.data.media import source_of
from finetune_trainer.data.regions import check_inside, regions_of
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import TokenTable, media_table
from finetune_trainer.errors import DataError
from finetune_trainer.tasks import box_metrics
from finetune_trainer.tasks.base import Answer, Batch, Encoded, HeadSpec, Piece, Predictions, Refused, dense
from finetune_trainer.tasks.box_metrics import Found
from finetune_trainer.tasks.labels import classifier_config, find_labels
from finetune_trainer.tasks.set_loss import SetLoss, set_loss, weights_of

load_processor = CanvasSettings.load
_MOST_FOUND = 100
"""Boxes of an image that are judged, the most certain ones, as COCO has it."""
_LEAST_SCORE = 0.05
"""What is less certain is not told."""
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class ObjectDetection:
    """Boxes, each with one of `labels`."""

    labels: tuple[str, ...]
    settings: CanvasSettings
    flip: bool
    seed: int
    name: str = "object-detection"
    metric_names: tuple[str, ...] = ("loss", *box_metrics.NAMES)

    @property
    def head(self) -> HeadSpec:
        """Boxes and their classes, named in the model's config; layers of YOLOS have no boxes of their own."""
        own = {"auxiliary_loss": False} if self.settings.step > 1 else {}
        return HeadSpec("object-detection", {**classifier_config(self.labels), **own})

    def fingerprint(self) -> Mapping[str, Any]:
        """Labels decide the numbers of the classes."""
        return {"labels": self.labels}

    def encode(self, examples: Sequence[Example], processor: CanvasSettings, max_length: int, /) -> Encoded:  # noqa: ARG002
        """Return `objects` [R, N * 5], a class and a place on the canvas each, class -1 where there is none.

        Crowds are left out; rows with more objects than the model has queries are refused.
        """
        index = {label: number for number, label in enumerate(self.labels)}
        learned = [[each for each in example.regions if not each.crowd] for example in examples]
        most = processor.queries
        kept = [at for at, regions in enumerate(learned) if len(regions) <= most]
        refused = [
            Refused(example, f"{len(regions)} objects, and the model finds {most} at most")
            for example, regions in zip(examples, learned, strict=True)
            if len(regions) > most
        ]
        table = np.full((len(kept), max([1, *(len(learned[at]) for at in kept)]), 5), -1.0, dtype=np.float32)
        shares = np.ones((len(kept), 2), dtype=np.float32)
        for row, at in enumerate(kept):
            shape, regions = examples[at].media["image"].shape, learned[at]
            shares[row] = processor.share(shape)
            boxes = np.array([[each.left, each.top, each.width, each.height] for each in regions]).reshape(-1, 4)
            table[row, : len(regions), 0] = [index[each.label] for each in regions]
            table[row, : len(regions), 1:] = processor.onto(boxes, shape)
        columns = {"objects": table.reshape(len(kept), -1), "share": shares}
        return Encoded(media_table([processor.tokens] * len(kept), columns), [examples[at] for at in kept], refused, 0)

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:
        """Return pixel_values [B, 3, H, W], labels [B, N] and boxes [B, N, 4]; for padded images also pixel_mask."""
        column = table.media["image"]
        turns = epoch is not None and self.flip
        mirrored = {int(row): turns and is_mirrored(self.seed, epoch or 0, int(row)) for row in rows}
        pixels = column.map(lambda row: self.settings.laid(column.decoded(row), mirrored=mirrored[row]), rows)
        found = torch.from_numpy(dense(table, "objects", rows).reshape(len(rows), -1, 5).copy())
        found = found[:, : max(1, int((found[..., 0] >= 0).sum(1).max()))]
        share = torch.from_numpy(dense(table, "share", rows))
        boxes = found[..., 1:].clamp(min=0.0)
        flipped = torch.tensor([mirrored[int(row)] for row in rows])
        across = torch.where(flipped[:, None], share[:, :1] - boxes[..., 0], boxes[..., 0])
        tensors = {
            "pixel_values": torch.from_numpy(np.stack(pixels)),
            "labels": found[..., 0].long(),
            "boxes": torch.cat([across[..., None], boxes[..., 1:]], dim=-1),
        }
        if self.settings.masked:
            height, width = self.settings.size
            sides = (share * torch.tensor([width, height])).round()
            inside = [torch.arange(size)[None] < sides[:, at, None] for at, size in ((1, height), (0, width))]
            tensors["pixel_mask"] = (inside[0][:, :, None] & inside[1][:, None]).long()
        return Batch(tensors, rows)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> Tensor:  # noqa: ARG002
        """Weights of the classes of all queries, and objects, [2]."""
        classes = dense(table, "objects", rows).reshape(len(rows), -1, 5)[..., 0]
        return self._weights(torch.from_numpy((classes >= 0).sum(1)))

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of the classes and that of the boxes, [2], of matched boxes and all others."""
        return self._sums(model, batch)[0].sum(0)

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return `boxes` on the canvas, [B, K, 4], their `classes` and `scores`, [B, K], and the loss's `sums`."""
        sums, logits_BQC, boxes_BQ4 = self._sums(model, batch)
        found = most_certain(logits_BQC.float(), boxes_BQ4.float(), softmax=self.settings.no_object is not None)
        return {name: each.cpu().numpy() for name, each in {**found, "sums": sums}.items()}

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:
        """Return the loss of all rows together and COCO's measures."""
        counts = torch.tensor([sum(not region.crowd for region in each.regions) for each in examples])
        parts = predictions["sums"].astype(np.float64).sum(0) / self._weights(counts).double().numpy()
        found = box_metrics.box_metrics(
            [each.regions for each in examples], self._in_pixels(predictions, examples), self.labels
        )
        return {"loss": float(parts.sum()), **found}

    def pieces(self, table: TokenTable, row: int, processor: CanvasSettings, /) -> Sequence[Piece]:
        """Return what the image is called, its size and the size in which the model sees it, then its objects."""
        source = table.media["image"].source(row)
        height, width = source.shape[:2]
        seen = processor.seen(source.shape)
        image = f"[image {source.name}, {width}x{height} pixels, seen as {seen[1]}x{seen[0]}]"
        marked = np.asarray(table.dense["objects"][row]).reshape(-1, 5)
        marked = marked[marked[:, 0] >= 0]
        boxes = processor.back(marked[:, 1:], source.shape).round().astype(int).tolist()
        told = [f" {self.labels[int(label)]} {box}" for label, box in zip(marked[:, 0], boxes, strict=True)]
        return [Piece(image, supervised=False), *(Piece(each, supervised=True) for each in told[:_SHOWN])]

    def label_text(self, example: Example) -> str:
        """Return how many objects of each label there are."""
        names = [each.label for each in example.regions]
        return ", ".join(f"{names.count(label)} {label}" for label in self.labels if label in names) or "nothing"

    def ask(self, columns: Columns) -> Read:
        """Read an image; what is in it is to be found."""
        image = columns.need("image")
        return lambda row: Example(row, media={"image": source_of(row, image)})

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:
        """Return the `objects` of each image, the most certain first: `bbox` in its pixels, `category`, `score`."""
        answers: list[Answer] = []
        for found in self._in_pixels(predictions, examples):
            parts = zip(found.boxes.tolist(), found.classes.tolist(), found.scores.tolist(), strict=True)
            told = [
                {"bbox": box, "category": self.labels[label], "score": score}
                for box, label, score in parts
                if score >= _LEAST_SCORE
            ]
            answers.append({"objects": told})
        return answers

    def kept(self) -> Mapping[str, Any]:
        """Return the labels."""
        return {"labels": list(self.labels)}

    def _weights(self, counts: Tensor) -> Tensor:
        return weights_of(counts.float(), self.settings.queries, self.settings.no_object)

    def _sums(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums of each row, [B, 2], and the last layer's logits and boxes."""
        config: Any = model.config
        labels, boxes = batch.tensors["labels"], batch.tensors["boxes"]
        loss = SetLoss.of(config, self.settings.no_object)
        return set_loss(model, batch.inputs(), partial(loss.sums, labels_BN=labels, objects_BN4=boxes), labels)

    def _in_pixels(self, predictions: Predictions, examples: Sequence[Example]) -> list[Found]:
        parts = zip(predictions["boxes"], predictions["classes"], predictions["scores"], examples, strict=True)
        return [
            Found(self.settings.back(boxes, example.media["image"].shape), classes, scores)
            for boxes, classes, scores, example in parts
        ]


def most_certain(logits_BQC: Tensor, boxes_BQ4: Tensor, *, softmax: bool) -> Mapping[str, Tensor]:
    """Return the boxes that are judged, the most certain first.

    Args:
        logits_BQC: Scores of the classes, with `no object` last for a softmax.
        boxes_BQ4: The model's boxes.
        softmax: Whether a box has one class, the likeliest; else it counts once for each.

    Returns:
        `boxes` [B, K, 4], `classes` and `scores` [B, K].
    """
    if softmax:
        chances, classes = logits_BQC.softmax(-1)[..., :-1].max(-1)
        scores, query = chances.topk(min(_MOST_FOUND, chances.shape[1]))
        classes = classes.gather(1, query)
    else:
        chances = logits_BQC.sigmoid().flatten(1)
        scores, which = chances.topk(min(_MOST_FOUND, chances.shape[1]))
        query, classes = which // logits_BQC.shape[-1], which % logits_BQC.shape[-1]
    return {
        "boxes": boxes_BQ4.gather(1, query[..., None].expand(-1, -1, 4)),
        "classes": classes,
        "scores": scores,
    }


def read(columns: Columns) -> Read:
    """Read an image and its objects."""
    image, marked = columns.need("image"), columns.need("objects")

    def one(row: Row) -> Example:
        return Example(row, regions=regions_of(row, marked), media={"image": source_of(row, image)})

    return one


def build(spec: FineTuneJobSpec, splits: Splits, processor: CanvasSettings, /) -> ObjectDetection:
    """Find the labels in the training rows.

    Args:
        spec: The manifest's.
        splits: All sets.
        processor: What the model says of its images.

    Returns:
        The task.

    Raises:
        DataError: A box leaves its image, a held-out row has a label that training never sees, or a set has no object.
    """
    for name, examples in splits.named().items():
        for example in examples:
            check_inside(example)
        if examples and all(region.crowd for example in examples for region in example.regions):
            raise DataError(f"the {name} rows hold no objects", remedy="Check that data.fields.objects names them.")
    labels = find_labels(splits, least=1, of=lambda example: tuple(each.label for each in example.regions))
    return restore(spec, {"labels": labels}, processor)


def restore(spec: FineTuneJobSpec, kept: Mapping[str, Any], processor: CanvasSettings, /) -> ObjectDetection:
    """Return the task for its labels."""
    augmentation = spec.training.augmentation
    flip = augmentation is not None and bool(augmentation.flip)
    return ObjectDetection(tuple(kept["labels"]), processor, flip, spec.training.seed)
