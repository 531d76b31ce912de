"""Objects of images: how they are read, and which of them are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_trainer.data.formats import Row, read_rows
from finetune_trainer.data.regions import regions_of
from finetune_trainer.data.schema import Region, to_examples
from finetune_trainer.errors import DataError
from finetune_trainer.preparation import prepare_data
from finetune_trainer.tasks import TASKS
from support.tiny import manifest, one_row, run_config, write_image
from support.tiny_vision import detection, scenes

TASK = "object-detection"


def test_coco_columns_and_lists_of_objects_give_the_same_rows(tmp_path: Path, tiny: dict[str, Path]):
    rows = scenes(6)
    (tmp_path / "coco/annotations").mkdir(parents=True)
    (tmp_path / "coco/train").mkdir()
    names, annotations = ["cup", "pen", "key"], []
    for index, row in enumerate(rows):
        write_image(tmp_path / f"coco/train/{index}.png", index)
        for box, name in zip(row["objects"]["bbox"], row["objects"]["category"], strict=True):
            annotations.append(
                {"id": len(annotations), "image_id": index, "category_id": names.index(name), "bbox": box}
            )
    document = {
        "images": [{"id": index, "file_name": f"{index}.png"} for index in range(6)],
        "categories": [{"id": at, "name": name} for at, name in enumerate(names)],
        "annotations": annotations,
    }
    file = tmp_path / "coco/annotations/instances_train.json"
    file.write_text(json.dumps(document))
    listed = [
        row | {"objects": [{"bbox": b, "category": c} for b, c in zip(*row["objects"].values(), strict=True)]}
        for row in rows
    ]
    found = [
        detection(tmp_path, tiny[TASK], rows),
        detection(tmp_path, tiny[TASK], listed),
        prepare_data(run_config(tmp_path, manifest(TASK, tiny[TASK], file))),
    ]
    tables = [each.encoded["train"].table for each in found]

    assert read_rows(file)[2].values == {
        "image": "2.png",
        "objects": [e | {"iscrowd": False} for e in listed[2]["objects"]],
    }
    assert {each.task.labels for each in found} == {("cup", "key", "pen")}
    for other in tables[1:]:
        assert np.array_equal(other.dense["objects"], tables[0].dense["objects"])
    shown = found[0].task.pieces(tables[0], 1, found[0].processor)
    assert [piece.text for piece in shown] == ["[image images/1.png, 13x13 pixels, seen as 16x16]", " pen [1, 0, 5, 4]"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "column 'objects' holds nothing, not objects"),
        ({"bbox": [[1, 1, 2, 2]], "category": []}, "no lists `bbox` and `category` of one length"),
        ({"bbox": [[1, 1, 2]], "category": ["a"]}, "object 1 has the box [1, 1, 2], not four numbers"),
        (
            {"bbox": [[1, 1, 2, 2], [1, -1, 2, 2]], "category": ["a", "b"]},
            "object 2 has the box [1, -1, 2, 2]: negative",
        ),
        ({"bbox": [[1, 1, 0, 2]], "category": ["a"]}, "without an area"),
        ({"bbox": [[1, 1, float("nan"), 2]], "category": ["a"]}, "not four numbers"),
        ({"bbox": [[1, 1, 2, 2]], "category": [None]}, "object 1 has no category (found None)"),
        ([{"bbox": [1, 1, 2, 2]}], "object 1 has no category (found None)"),
        (["cup"], "object 1 is no {bbox, category} but str"),
    ],
)
def test_objects_that_cannot_be_used_are_named_with_file_row_and_remedy(value: Any, message: str):
    rows = [Row("f.jsonl", 1, one_row(TASK, 1)), Row("f.jsonl", 2, {"image": "1.png", "objects": value})]

    with pytest.raises(DataError) as caught:
        to_examples(rows, TASKS[TASK].read, {})
    assert caught.value.message.startswith("f.jsonl, row 2: ")
    assert message in caught.value.message
    assert caught.value.remedy


def test_a_box_that_leaves_its_image_is_refused_once_the_image_was_seen(tmp_path: Path, tiny: dict[str, Path]):
    rows = [one_row(TASK, 1), {"image": "images/1.png", "objects": {"bbox": [[2, 2, 12.5, 4]], "category": ["pen"]}}]

    with pytest.raises(DataError, match=r"rows.jsonl, row 2: object 1 has the box .* and the image .* only 13 x 13"):
        detection(tmp_path, tiny[TASK], rows)
    assert regions_of(Row("f", 1, one_row(TASK, 1)), "objects") == (Region(1, 0, 5, 4, "pen"),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": None}, "the list 'annotations' is missing"),
        ({"annotations": [{"id": 7, "image_id": 9, "category_id": 0}]}, "annotation 7 is of the image 9"),
        ({"annotations": [{"id": 7, "image_id": 1, "category_id": 4}]}, "row 2: the annotation 7 has the category 4"),
        ({"images": [{"id": 1}, {"id": 1}]}, "several images have the same id"),
    ],
)
def test_a_coco_file_that_contradicts_itself_is_refused(change: dict[str, Any], message: str, tmp_path: Path):
    images = [{"id": at, "file_name": f"{at}.png"} for at in range(2)]
    good: dict[str, Any] = {"images": images, "categories": [{"id": 0, "name": "cup"}], "annotations": []}
    (tmp_path / "coco.json").write_text(json.dumps(good | change))

    with pytest.raises(DataError, match=message) as caught:
        read_rows(tmp_path / "coco.json")
    assert caught.value.remedy


def test_rows_with_more_objects_than_queries_are_refused_and_crowds_are_not_learned(
    tmp_path: Path, tiny: dict[str, Path]
):
    box, rows = [1, 1, 3, 3], [one_row(TASK, 1 + index % 3) for index in range(40)]
    rows[3] = {"image": "images/3.png", "objects": {"bbox": [box] * 7, "category": ["cup"] * 7}}
    rows[4] = {
        "image": "images/4.png",
        "objects": {"bbox": [box] * 7, "category": ["cup"] * 7, "iscrowd": [0] + [1] * 6},
    }
    found = detection(tmp_path, tiny[TASK], rows).encoded["train"]

    assert [each.reason for each in found.refused] == ["7 objects, and the model finds 6 at most"]
    assert (np.asarray(found.table.dense["objects"][3]).reshape(-1, 5)[:, 0] >= 0).sum() == 1


def test_a_held_out_label_that_training_never_sees_and_a_set_without_objects_are_refused(
    tmp_path: Path, tiny: dict[str, Path]
):
    write_image(tmp_path / "images/9.png", 9)
    for marked, message in (
        ({"bbox": [[1, 1, 3, 3]], "category": ["new"]}, "row 1: the label 'new' of the test rows"),
        ({"bbox": [], "category": []}, "the test rows hold no objects"),
    ):
        (tmp_path / "test.jsonl").write_text(json.dumps({"image": "images/9.png", "objects": marked}) + "\n")
        with pytest.raises(DataError, match=message):
            detection(tmp_path, tiny[TASK], scenes(), data={"test": {"uri": f"file://{tmp_path / 'test.jsonl'}"}})
