"""Mean average precision of boxes, as COCO defines it and pycocotools computes it."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_trainer.data.schema import Region
from finetune_trainer.data.table import Array

NAMES = ("map", "map_50", "map_75", "mar_100")
_PLACES = (0, 1, 2, 8)
"""Where they stand in COCOeval's statistics."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a model found in an image: boxes (left, top, width, height) in its pixels, [N, 4], classes and scores."""

    boxes: Array
    classes: Array
    scores: Array


def box_metrics(
    truth: Sequence[Sequence[Region]], found: Sequence[Found], labels: Sequence[str]
) -> Mapping[str, float]:
    """Compare what was found with what is there.

    Args:
        truth: The objects of each image, in at least one of them one that is no crowd.
        found: The same images'.
        labels: Of the classes.

    Returns:
        Average precision over classes and overlaps from 0.5 to 0.95 (`map`), at 0.5 and at 0.75, and average recall
        with 100 boxes an image; from 0 to 1.
    """
    from pycocotools.coco import COCO  # noqa: PLC0415 - what other tasks do not need
    from pycocotools.cocoeval import COCOeval  # noqa: PLC0415

    number = {label: at for at, label in enumerate(labels)}
    annotations = [
        {
            "image_id": image,
            "category_id": number[each.label],
            "bbox": [each.left, each.top, each.width, each.height],
            "area": each.width * each.height,
            "iscrowd": int(each.crowd),
        }
        for image, regions in enumerate(truth)
        for each in regions
    ]
    known: Any = COCO()
    known.dataset = {
        "images": [{"id": image} for image in range(len(truth))],
        "categories": [{"id": at} for at in range(len(labels))],
        "annotations": [{"id": at, **each} for at, each in enumerate(annotations, start=1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        known.createIndex()
        judge: Any = COCOeval(known, known.loadRes(_as_rows(found)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return {name: float(judge.stats[place]) for name, place in zip(NAMES, _PLACES, strict=True)}


def _as_rows(found: Sequence[Found]) -> Array:
    """Return image, box, score and class of every box, [N, 7]."""
    parts = [
        np.column_stack([np.full(len(each.scores), image), each.boxes, each.scores, each.classes])
        for image, each in enumerate(found)
    ]
    return np.concatenate(parts).astype(np.float64)
