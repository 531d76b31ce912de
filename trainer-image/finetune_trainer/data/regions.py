"""The objects of an image as rows hold them: boxes in pixels (left, top, width, height), each with its category."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_trainer.data.formats import Row
from finetune_trainer.data.schema import Example, Region

_CATEGORIES = ("category", "categories", "label", "labels", "category_id")
_ROUNDING = 1.0
"""A box may end this many pixels behind the image: tools that mark them round."""
_REMEDY = "Write boxes as [left, top, width, height] in pixels, or delete the object."


def regions_of(row: Row, column: str) -> tuple[Region, ...]:
    """Return the objects of a row.

    Args:
        row: The row.
        column: Holds {bbox: [...], category: [...]}, as data sets of Hugging Face have it, or a list of {bbox,
            category}; an image without objects has empty lists.

    Returns:
        The objects, in the row's order.

    Raises:
        DataError: A box or a category cannot be used.
    """  # noqa: DOC502
    value = row.values.get(column)
    if isinstance(value, Mapping):
        boxes, names = value.get("bbox"), next((value[name] for name in _CATEGORIES if name in value), None)
        crowds = value.get("iscrowd") or [False] * len(boxes or ())
        if not isinstance(boxes, list) or not isinstance(names, list) or not len(boxes) == len(names) == len(crowds):
            row.refuse(
                f"column {column!r} holds no lists `bbox` and `category` of one length",
                "Write {bbox: [[left, top, width, height], ...], category: [name, ...]}.",
            )
        parts: Sequence[Mapping[str, Any]] = [
            {"bbox": box, "category": name, "iscrowd": crowd}
            for box, name, crowd in zip(boxes, names, crowds, strict=True)
        ]
    elif isinstance(value, list):
        parts = value
    else:
        found = "nothing" if value is None else type(value).__name__
        row.refuse(f"column {column!r} holds {found}, not objects", "Write {bbox: [...], category: [...]} there.")
    return tuple(_region(row, number, each) for number, each in enumerate(parts, start=1))


def _region(row: Row, number: int, value: Any) -> Region:
    if not isinstance(value, Mapping):
        row.refuse(f"object {number} is no {{bbox, category}} but {type(value).__name__}", _REMEDY)
    box = value.get("bbox")
    if (
        not isinstance(box, list | tuple)
        or len(box) != 4
        or not all(isinstance(each, int | float) and math.isfinite(each) for each in box)
    ):
        row.refuse(f"object {number} has the box {box}, not four numbers", _REMEDY)
    left, top, width, height = map(float, box)
    if width <= 0 or height <= 0 or left < 0 or top < 0:
        row.refuse(f"object {number} has the box {list(box)}: negative, or without an area", _REMEDY)
    name = next((value[each] for each in _CATEGORIES if each in value), None)
    if isinstance(name, bool) or not isinstance(name, int | str) or not str(name).strip():
        row.refuse(f"object {number} has no category (found {name!r})", "Write its name or number there.")
    return Region(left, top, width, height, str(name).strip(), crowd=bool(value.get("iscrowd")))


def check_inside(example: Example) -> None:
    """Refuse a row with a box that leaves its image, whose size is known once it was looked at."""
    height, width = example.media["image"].shape[:2]
    for number, each in enumerate(example.regions, start=1):
        right, bottom = each.left + each.width, each.top + each.height
        if right > width + _ROUNDING or bottom > height + _ROUNDING:
            example.row.refuse(
                f"object {number} has the box {[each.left, each.top, each.width, each.height]}, and the image "
                f"{example.media['image'].name!r} only {width} x {height} pixels",
                "Write boxes as [left, top, width, height] in pixels, cut them at the image's edge, or delete them.",
            )
