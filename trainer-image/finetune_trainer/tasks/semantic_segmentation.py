"""A class for every pixel of an image.

Legend: B rows, C classes, H and W height and width of the input.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.augment import is_mirrored
from finetune_trainer.data.formats import CLASSES_FILE, Row
from finetune_trainer.data.images import Pixels
from finetune_trainer.data.masks import IGNORED, MaskDecoder, MaskSettings
from finetune_trainer.data.media import blamed, source_of
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import TokenTable, media_table
from finetune_trainer.errors import DataError
from finetune_trainer.tasks.base import Answer, Attachment, Batch, Encoded, HeadSpec, Piece, Predictions, dense, objects
from finetune_trainer.tasks.labels import classifier_config
from finetune_trainer.tasks.mask_metrics import mask_metrics, pixel_counts

load_processor = MaskSettings.load


@dataclass(frozen=True, slots=True)
class SemanticSegmentation:
    """One of `labels` for each pixel."""

    labels: tuple[str, ...]
    settings: MaskSettings
    flip: bool
    seed: int
    name: str = "semantic-segmentation"
    metric_names: tuple[str, ...] = ("loss", "mean_iou", "pixel_accuracy")

    @property
    def head(self) -> HeadSpec:
        """Scores of the classes, named in the model's config; an auxiliary head is not trained."""
        return HeadSpec("semantic-segmentation", classifier_config(self.labels))

    def fingerprint(self) -> Mapping[str, Any]:
        """Labels are the classes."""
        return {"labels": self.labels}

    def encode(self, examples: Sequence[Example], processor: MaskSettings, max_length: int, /) -> Encoded:  # noqa: ARG002
        """Return `pixels`, [R, 1]: how many of the input are labelled; none where a mask is to be found."""
        pixels = np.array([[_labelled(example, processor)] for example in examples], dtype=np.float32)
        return Encoded(media_table([processor.tokens] * len(examples), {"pixels": pixels}), examples, (), 0)

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:
        """Return pixel_values [B, 3, H, W] and labels [B, H, W]; to judge also the masks and their sizes as they are.

        Without masks, what is to be found has the size of the images.
        """
        images, masks = table.media["image"], table.media["mask"]
        turns = epoch is not None and self.flip
        mirrored = {int(row): turns and is_mirrored(self.seed, epoch or 0, int(row)) for row in rows}

        def seen(row: int) -> Pixels:
            pixels = self.settings.whole(images.decoded(row))
            return pixels[:, ::-1] if mirrored[row] else pixels

        pixels = images.map(lambda row: self.settings.normalised(seen(row)), rows)
        tensors = {"pixel_values": torch.from_numpy(np.stack(pixels))}
        if masks.sources[int(rows[0])] is None:  # they are to be found
            tensors["sizes"] = torch.tensor([images.source(int(row)).shape[:2] for row in rows])
            return Batch(tensors, rows)
        classes = masks.map(lambda row: self.settings.classes(masks.decoded(row)), rows)
        wanted = [self.settings.at_input(each) for each in classes]
        wanted = [each[:, ::-1] if mirrored[int(row)] else each for each, row in zip(wanted, rows, strict=True)]
        tensors["labels"] = torch.from_numpy(np.stack(wanted)).long()
        if epoch is None:
            tensors |= _whole(classes)
        return Batch(tensors, rows)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:  # noqa: ARG002
        """Labelled pixels; one where there is none."""
        return max(1.0, float(dense(table, "pixels", rows).astype(np.float64).sum()))

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy, summed over the labelled pixels of the input."""
        return self._losses(self._logits(model, batch), batch).sum()

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return how many pixels of each class are `right`, `told` and `present`, [B, C], and each row's `loss`."""
        logits = self._logits(model, batch)
        counts = [
            pixel_counts(told, mask[: len(told), : told.shape[1]], len(self.labels))
            for told, mask in zip(self._told(logits, batch), batch.tensors["masks"], strict=True)
        ]
        right, told, present = (np.stack(each) for each in zip(*counts, strict=True))
        losses = self._losses(logits, batch)
        pixels = (batch.tensors["labels"] != IGNORED).sum((1, 2))
        loss = {"loss": losses.sum((1, 2)).cpu().numpy(), "pixels": pixels.cpu().numpy()}
        return {"right": right, "told": told, "present": present, **loss}

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:  # noqa: ARG002
        """Return the loss of a pixel, the mean over classes of intersection over union, and the part that is right."""
        loss = float(predictions["loss"].astype(np.float64).sum() / max(1, int(predictions["pixels"].sum())))
        return {"loss": loss, **mask_metrics(*(predictions[name] for name in ("right", "told", "present")))}

    def respond(self, model: nn.Module, rows: Encoded, which: Rows) -> Predictions:
        """Return the classes of each image in its own size, as `masks`."""
        batch = self.collate(rows.table, which, None).to(next(model.parameters()).device)
        return {"masks": objects([each.cpu().numpy() for each in self._told(self._logits(model, batch), batch)])}

    def pieces(self, table: TokenTable, row: int, processor: MaskSettings, /) -> Sequence[Piece]:
        """Return what the image is called and its sizes, then the classes of its mask with their parts."""
        source, mask = (table.media[name].source(row) for name in ("image", "mask"))
        height, width = source.shape[:2]
        seen = f"{processor.size[1]}x{processor.size[0]}"
        classes = processor.classes(table.media["mask"].decoded(row))
        found, counts = np.unique(classes, return_counts=True)
        told = [
            f" {'unlabelled' if each == IGNORED else self.labels[each]} {100 * count / classes.size:.1f} %"
            for each, count in zip(found.tolist(), counts.tolist(), strict=True)
        ]
        image = f"[image {source.name}, {width}x{height} pixels, seen as {seen}; mask {mask.name}]"
        return [Piece(image, supervised=False), *(Piece(each, supervised=True) for each in told)]

    def label_text(self, example: Example) -> str:
        """Return the classes of the mask."""
        return ", ".join(self.labels[each] for each in _classes_of(example, self.settings))

    def ask(self, columns: Columns) -> Read:
        """Read an image; its mask is to be found."""
        image = columns.need("image")
        return lambda row: Example(row, media={"image": source_of(row, image)})

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:  # noqa: ARG002
        """Return the `mask` as a PNG, its grey values the classes' numbers, and each class's part as `shares`.

        Of judged rows, whose pixels were counted at once, there are shares alone.
        """
        if "masks" not in predictions:
            return [{"shares": self._shares(counts)} for counts in predictions["told"]]
        answers: list[Answer] = []
        for mask in predictions["masks"]:
            counts = np.bincount(mask.ravel(), minlength=len(self.labels))
            answers.append({"mask": Attachment(_png(mask), ".png"), "shares": self._shares(counts)})
        return answers

    def kept(self) -> Mapping[str, Any]:
        """Return the labels."""
        return {"labels": list(self.labels)}

    def _shares(self, counts: NDArray[np.int64]) -> dict[str, float]:
        return {self.labels[at]: float(counts[at] / counts.sum()) for at in np.flatnonzero(counts)}

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(**batch.inputs()).logits.float()

    def _losses(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss of every pixel of the input, [B, H, W], 0 where none is labelled."""
        size = batch.tensors["labels"].shape[-2:]
        whole = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return F.cross_entropy(whole, batch.tensors["labels"], ignore_index=IGNORED, reduction="none")

    def _told(self, logits: Tensor, batch: Batch) -> list[Tensor]:
        """Return the likeliest class of every pixel of each image, in its own size."""
        return [
            F.interpolate(each[None], size=size, mode="bilinear", align_corners=False)[0].argmax(0).byte()
            for each, size in zip(logits, batch.tensors["sizes"].tolist(), strict=True)
        ]


def _whole(classes: Sequence[Pixels]) -> dict[str, Tensor]:
    """Return masks in one tensor, unlabelled where they end, and their sizes."""
    sizes = np.array([each.shape for each in classes])
    masks = np.full((len(classes), *sizes.max(axis=0)), IGNORED, dtype=np.uint8)
    for at, each in enumerate(classes):
        masks[at, : each.shape[0], : each.shape[1]] = each
    return {"masks": torch.from_numpy(masks), "sizes": torch.from_numpy(sizes)}


def _labelled(example: Example, settings: MaskSettings) -> float:
    source = example.media.get("mask")
    if source is None:
        return 0.0
    with blamed(source):
        classes = settings.classes(MaskDecoder().decode(source.read()))
    return float((settings.at_input(classes) != IGNORED).sum())


def _classes_of(example: Example, settings: MaskSettings) -> tuple[int, ...]:
    """Return the classes that a mask holds, which are known once it was looked at."""
    found = example.media["mask"].values
    return tuple(each - 1 for each in found if each) if settings.reduced else found


def _png(mask: Pixels) -> bytes:
    from PIL import Image  # noqa: PLC0415 - text does not need it

    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    return stream.getvalue()


def read(columns: Columns) -> Read:
    """Read an image and its mask."""
    image, mask = columns.need("image"), columns.need("mask")

    def one(row: Row) -> Example:
        return Example(row, media={"image": source_of(row, image), "mask": source_of(row, mask)})

    return one


def build(spec: FineTuneJobSpec, splits: Splits, processor: MaskSettings, /) -> SemanticSegmentation:
    """Find the classes in the training masks, and their names in the file `classes.txt` beside the data.

    Args:
        spec: The manifest's.
        splits: All sets.
        processor: What the model says of its images.

    Returns:
        The task.

    Raises:
        DataError: A mask has another size than its image, training has fewer than two classes, or a held-out mask has
            a class that training has not.
    """
    for example in (each for examples in splits.named().values() for each in examples):
        image, mask = (example.media[name].shape[:2] for name in ("image", "mask"))
        if image != mask:
            example.row.refuse(
                f"the mask has {mask[1]} x {mask[0]} pixels, its image {image[1]} x {image[0]}",
                "Write masks in the size of their images, or delete the row.",
            )
    labels = _names(splits.train[0], max(max(_classes_of(each, processor), default=0) for each in splits.train) + 1)
    if len(labels) < 2:
        raise DataError(
            "the training masks hold one class, at least two are needed",
            remedy="Check that their pixels are class numbers, not colours; 255 means that nobody labelled a pixel.",
        )
    for name in ("validation", "test"):
        for example in splits.named()[name]:
            if max(_classes_of(example, processor), default=0) >= len(labels):
                example.row.refuse(
                    f"the mask of the {name} rows holds a class that no training mask has, of {len(labels)}",
                    "Add training rows with that class, or correct the mask.",
                )
    return restore(spec, {"labels": labels}, processor)


def _names(example: Example, count: int) -> tuple[str, ...]:
    """Return the classes' names, one a line of the file; their numbers without one."""
    file = example.row.folder / CLASSES_FILE
    if not file.is_file():
        return tuple(str(each) for each in range(count))
    names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(names) < count or len(set(names)) < len(names):
        raise DataError(
            f"{file}: {len(names)} names of classes, and masks hold {count}",
            remedy="Write one name a line, each once; the first is that of class 0.",
        )
    return names


def restore(spec: FineTuneJobSpec, kept: Mapping[str, Any], processor: MaskSettings, /) -> SemanticSegmentation:
    """Return the task for its labels."""
    augmentation = spec.training.augmentation
    flip = augmentation is not None and bool(augmentation.flip)
    return SemanticSegmentation(tuple(kept["labels"]), processor, flip, spec.training.seed)
