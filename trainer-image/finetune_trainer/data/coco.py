"""Annotations of objects as COCO has them: one JSON file with images, categories and annotations that name both.

Every image becomes the values of a row, in the file's order; boxes of the same image stay in theirs.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_trainer.errors import DataError

_PARTS = ("images", "categories", "annotations")
_REMEDY = "Correct the file; its format is described at cocodataset.org."


def read(file: Path) -> tuple[Path, Sequence[dict[str, Any]]]:
    """Return the folder where the images' paths start, and for each image its values: `image` and `objects`.

    Args:
        file: The annotations.

    Returns:
        The folder and the rows' values.

    Raises:
        DataError: It is no such file, or an annotation names an image or a category that is not there.
    """
    try:
        found = json.loads(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file}: no valid JSON ({error})", remedy="Copy the file again; it may be cut off.") from error
    missing = [name for name in _PARTS if not isinstance(found, dict) or not isinstance(found.get(name), list)]
    if missing:
        raise DataError(f"{file}: no COCO annotations, the list {missing[0]!r} is missing", remedy=_REMEDY)
    names = {each.get("id"): each.get("name") for each in found["categories"]}
    rows = {each.get("id"): {"image": each.get("file_name"), "objects": []} for each in found["images"]}
    if len(rows) < len(found["images"]):
        raise DataError(f"{file}: several images have the same id, or none", remedy=_REMEDY)
    number = {image: at for at, image in enumerate(rows, start=1)}
    for each in found["annotations"]:
        image, category = each.get("image_id"), each.get("category_id")
        if image not in rows:
            raise DataError(
                f"{file.name}: the annotation {each.get('id')} is of the image {image}, which is not in `images`",
                remedy="Add the image, or delete the annotation.",
            )
        if category not in names:
            raise DataError(
                f"{file.name}, row {number[image]}: the annotation {each.get('id')} has the category {category}, "
                "which is not in `categories`",
                remedy="Add the category, or delete the annotation.",
            )
        crowd = bool(each.get("iscrowd"))
        rows[image]["objects"].append({"bbox": each.get("bbox"), "category": names[category], "iscrowd": crowd})
    values = list(rows.values())
    return _folder_of(file, values), values


def _folder_of(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Return the folder in which the first image is: the file's own, or those of the usual layouts."""
    folders = [file.parent, file.parent / "images"]
    if file.parent.name == "annotations":
        root, part = file.parent.parent, file.stem.rpartition("_")[2]
        folders += [root / part, root / "images", root / "images" / part, root]
    first = next((str(each["image"]) for each in rows), "")
    return next((each for each in folders if (each / first).is_file()), file.parent)
