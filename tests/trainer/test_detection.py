"""Boxes: how they move with their image, what is learned of them, and how they are judged."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from finetune_trainer.certificates import accumulation_is_exact
from finetune_trainer.data.canvas import CanvasSettings
from finetune_trainer.data.schema import Region
from finetune_trainer.errors import ModelNotFound
from finetune_trainer.sources import ModelFiles
from finetune_trainer.tasks.box_metrics import NAMES, Found, box_metrics
from support.tiny import (
    manifest,
    model_of,
    resumed_and_whole,
    run_config,
    write_rows,
)
from support.tiny_vision import detection, save_detector, scenes

TASK = "object-detection"
ROWS = np.arange(8)


@pytest.fixture(params=["yolos", "detr", "conditional", "deformable"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_loss_of_a_batch_is_transformers_own(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from scipy.optimize import linear_sum_assignment
    from transformers.loss import loss_deformable_detr, loss_for_object_detection
    from transformers.utils import import_utils

    for module in (loss_for_object_detection, loss_deformable_detr):
        monkeypatch.setattr(module, "linear_sum_assignment", linear_sum_assignment, raising=False)
    monkeypatch.setattr(import_utils, "is_scipy_available", lambda: True)
    data = detection(tmp_path, save_detector(tmp_path / kind, kind), scenes())
    table, model = data.encoded["train"].table, model_of(data)
    batch = data.task.collate(table, ROWS, None)
    found = zip(batch.tensors["labels"], batch.tensors["boxes"], strict=True)
    labels = [{"class_labels": names[names >= 0], "boxes": boxes[names >= 0]} for names, boxes in found]
    with torch.no_grad():
        ours = (data.task.loss_sum(model, batch) / data.task.targets(table, ROWS, None)).sum()
        theirs = model(**batch.inputs(), labels=labels).loss

    assert [len(each["boxes"]) for each in labels] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert ("pixel_mask" in batch.tensors) is (kind != "yolos")
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_a_step_is_the_same_from_a_batch_or_from_single_rows_and_every_box_is_what_it_is_alone(
    kind: str, tmp_path: Path
):
    data = detection(tmp_path, save_detector(tmp_path / kind, kind), scenes())
    task, table, model = data.task, data.encoded["train"].table, model_of(data)
    parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
    told, _ = accumulation_is_exact(task, model, parameters, table, torch.device("cpu"))
    batches = [task.collate(table, rows, None) for rows in (ROWS, *ROWS.reshape(-1, 1))]
    with torch.no_grad():
        whole, *apart = (float(task.loss_sum(model, each)[1]) for each in batches)
        together, *single = (task.predict(model, each)["boxes"] for each in batches)

    assert told.value == "exact"
    assert sum(apart) == pytest.approx(whole, rel=1e-5)
    assert np.allclose(np.concatenate(single), together, atol=1e-5)


def test_a_batch_without_objects_has_a_loss_and_is_divided_by_one(tmp_path: Path, kind: str):
    data = detection(tmp_path, save_detector(tmp_path / kind, kind), scenes())
    table, rows = data.encoded["train"].table, np.array([0, 4])
    loss = data.task.loss_sum(model_of(data), data.task.collate(table, rows, 0))

    assert data.task.targets(table, rows, 0)[1] == 1.0
    assert loss[1] == 0.0
    assert loss[0] > 0.0


def regions(rng: np.random.Generator, count: int) -> list[Region]:
    places = np.concatenate([rng.uniform(0, 60, (count, 2)), rng.uniform(4, 40, (count, 2))], axis=1)
    return [Region(*map(float, place), label=f"c{rng.integers(3)}", crowd=bool(rng.random() < 0.1)) for place in places]


def guesses(truth: list[Region], rng: np.random.Generator) -> Found:
    near = [[each.left, each.top, each.width, each.height] for each in truth]
    boxes = np.abs(np.array(near * 2, dtype=np.float64).reshape(-1, 4) + rng.normal(0, 3, (2 * len(truth), 4)))
    classes = np.array([int(each.label[1]) for each in truth] * 2, dtype=np.int64)
    wrong = rng.random(len(classes)) < 0.2
    return Found(boxes, np.where(wrong, rng.integers(0, 3, len(classes)), classes), rng.random(len(classes)))


@pytest.mark.parametrize("seed", range(40))
def test_the_measures_are_those_of_pycocotools_on_files(seed: int, tmp_path: Path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(seed)
    truth = [[Region(1, 1, 9, 9, "c0")], *(regions(rng, int(rng.integers(0, 6))) for _ in range(5))]
    found = [guesses(each, rng) for each in truth]
    document: dict[str, Any] = {
        "images": [{"id": at} for at in range(len(truth))],
        "categories": [{"id": at, "name": f"c{at}"} for at in range(3)],
        "annotations": [],
    }
    for image, marked in enumerate(truth):
        for each in marked:
            box = [each.left, each.top, each.width, each.height]
            more = {"image_id": image, "category_id": int(each.label[1]), "bbox": box, "iscrowd": int(each.crowd)}
            number = len(document["annotations"]) + 1
            document["annotations"].append({"id": number, "area": box[2] * box[3], **more})
    results = [
        {"image_id": image, "category_id": int(name), "bbox": box.tolist(), "score": float(score)}
        for image, each in enumerate(found)
        for box, name, score in zip(each.boxes, each.classes, each.scores, strict=True)
    ]
    (tmp_path / "truth.json").write_text(json.dumps(document))
    (tmp_path / "found.json").write_text(json.dumps(results))
    with redirect_stdout(io.StringIO()):
        known = COCO(str(tmp_path / "truth.json"))
        judge = COCOeval(known, known.loadRes(str(tmp_path / "found.json")), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()

    ours = box_metrics(truth, found, ("c0", "c1", "c2"))
    assert 0.0 < ours["map"] < 1.0
    assert [ours[name] for name in NAMES] == [judge.stats[at] for at in (0, 1, 2, 8)]


def settings_of(folder: Path, kind: str, size: dict[str, int]) -> CanvasSettings:
    mean = {"image_mean": [0.48, 0.45, 0.41], "image_std": [0.26, 0.27, 0.28]}
    given = {"image_processor_type": f"{kind}ImageProcessor", "size": size, **mean}
    (folder / "preprocessor_config.json").write_text(json.dumps(given))
    (folder / "config.json").write_text(json.dumps({"model_type": kind.lower()}))
    return CanvasSettings.load(ModelFiles("file://model", folder))


@pytest.mark.parametrize("size", [{"height": 32, "width": 48}, {"shortest_edge": 40, "longest_edge": 64}])
@pytest.mark.parametrize("shape", [(50, 61), (61, 50), (24, 90), (40, 40)])
@pytest.mark.parametrize("name", ["Detr", "Yolos"])
def test_pixels_and_boxes_are_those_of_transformers(
    name: str, shape: tuple[int, int], size: dict[str, int], tmp_path: Path
):
    from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
    from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

    ours = settings_of(tmp_path, name, size)
    kinds: dict[str, Any] = {"Detr": DetrImageProcessorPil, "Yolos": YolosImageProcessorPil}
    theirs = kinds[name](**json.loads((tmp_path / "preprocessor_config.json").read_text()))
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    boxes = np.array([[3.0, 5.0, 11.0, 13.0]])
    marked = [{"image_id": 1, "category_id": 0, "bbox": boxes[0].tolist(), "area": 143, "iscrowd": 0}]
    want = theirs(
        Image.fromarray(pixels), annotations={"image_id": 1, "annotations": marked}, return_tensors="np", do_pad=False
    )
    height, width = want["pixel_values"][0].shape[1:]
    laid = ours.laid(pixels, mirrored=False)
    there = want["labels"][0]["boxes"] * np.tile(ours.share(shape), 2)

    assert (height, width) == ours.seen(shape)
    assert laid.shape[1:] == ours.size
    assert np.allclose(laid[:, :height, :width], want["pixel_values"][0], atol=1e-5)
    assert not laid[:, height:].any()
    assert not laid[:, :, width:].any()
    assert np.allclose(ours.onto(boxes, shape), there, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 900), st.integers(8, 900), st.booleans(), st.integers(0, 2**31))
def test_boxes_come_back_from_the_canvas_where_they_were(height: int, width: int, edges: bool, seed: int):
    sides = {"edges": (40, 64) if edges else None, "size": (64, 64), "resized": (64, 64), "step": 1}
    more: dict[str, Any] = {"resample": 2, "scale": 1.0, "mean": (0.0,) * 3, "std": (1.0,) * 3, "tokens": 1}
    ours = CanvasSettings(**sides, **more, source=Path(), queries=5, no_object=0.1, masked=False)
    places = np.random.default_rng(seed).uniform(0, 1, (5, 4)) * [width, height, width, height] / 2

    assert np.allclose(ours.back(ours.onto(places, (height, width, 3)), (height, width, 3)), places, atol=1e-2)


def test_a_mirrored_image_has_mirrored_boxes_and_which_is_mirrored_follows_seed_and_epoch(tmp_path: Path, kind: str):
    mirrored = {"training": {"augmentation": {"flip": True}}}
    data = detection(tmp_path, save_detector(tmp_path / kind, kind), scenes(), **mirrored)
    table = data.encoded["train"].table
    plain, first, again, other = (data.task.collate(table, ROWS, epoch).tensors for epoch in (None, 0, 0, 1))
    turned = [not torch.equal(plain["pixel_values"][row], first["pixel_values"][row]) for row in ROWS]

    assert 0 < sum(turned) < len(turned)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["pixel_values"], other["pixel_values"])
    for row in ROWS:
        share = table.dense["share"][row][0]
        width = round(float(share) * first["pixel_values"].shape[-1])
        count = int((plain["labels"][row] >= 0).sum())
        image, boxes = plain["pixel_values"][row, :, :, :width], plain["boxes"][row, :count].clone()
        if turned[row]:
            image, boxes[:, 0] = image.flip(-1), share - boxes[:, 0]
        assert torch.equal(first["pixel_values"][row, :, :, :width], image)
        assert torch.allclose(first["boxes"][row, :count], boxes)


def test_a_mirrored_run_resumes_with_the_same_bits(tmp_path: Path, tiny: dict[str, Path]):
    training = {"precision": "fp32", "augmentation": {"flip": True}}
    rows = write_rows(tmp_path, TASK, 16)
    document = manifest(TASK, tiny[TASK], rows, training=training, checkpoint={"every": "2steps"})
    result, resumed, undisturbed = resumed_and_whole(run_config(tmp_path, document))

    assert result.resumed_from == 2
    assert resumed == undisturbed


def test_a_model_whose_loss_depends_on_the_batch_is_refused_before_it_is_loaded(tmp_path: Path):
    settings_of(tmp_path, "Detr", {"height": 8, "width": 8})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "rt_detr"}))

    with pytest.raises(ModelNotFound, match="the loss of a rt_detr model is not known here"):
        CanvasSettings.load(ModelFiles("file://model", tmp_path))
