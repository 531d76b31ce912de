"""Masks: how they are read and refused, what is learned of their pixels, and how they are judged and told."""

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from finetune_trainer import predicting
from finetune_trainer.data.masks import IGNORED, MaskDecoder, MaskSettings
from finetune_trainer.data.media import Undecodable
from finetune_trainer.errors import ConfigError, DataError
from finetune_trainer.preparation import prepare_data
from finetune_trainer.sources import ModelFiles
from finetune_trainer.tasks.mask_metrics import mask_metrics, pixel_counts
from support.tiny import manifest, model_of, resumed_and_whole, run_config, train, write_image, write_rows

TASK = "semantic-segmentation"
ROWS = np.arange(8)


@pytest.fixture
def model(tiny: dict[str, Path]) -> Path:
    return tiny[TASK]


def segmentation(folder: Path, model: Path, count: int = 8, **sections: Any) -> Any:
    rows = write_rows(folder, TASK, count)
    return prepare_data(run_config(folder, manifest(TASK, model, rows, **sections)))


def encoded(mask: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    return stream.getvalue()


def test_the_loss_of_a_batch_is_transformers_own(tmp_path: Path, model: Path):
    data = segmentation(tmp_path, model)
    table, whole = data.encoded["train"].table, model_of(data)
    batch = data.task.collate(table, ROWS, None)
    with torch.no_grad():
        ours = data.task.loss_sum(whole, batch) / data.task.targets(table, ROWS, None)
        theirs = whole(**batch.inputs(), labels=batch.tensors["labels"]).loss

    assert data.task.labels == ("0", "1", "2")
    assert whole.config.semantic_loss_ignore_index == IGNORED
    assert data.task.targets(table, ROWS, None) == int((batch.tensors["labels"] != IGNORED).sum()) < 8 * 16 * 16
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_what_the_model_reads_is_what_transformers_makes_of_image_and_mask(tmp_path: Path, model: Path):
    from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

    data = segmentation(tmp_path, model)
    given = json.loads((model / "preprocessor_config.json").read_text()) | {"do_reduce_labels": False}
    images, masks = ([Image.open(tmp_path / kind / f"{row}.png") for row in ROWS] for kind in ("images", "masks"))
    want = SegformerImageProcessorPil(**given)(
        [each.convert("RGB") for each in images], segmentation_maps=masks, return_tensors="np"
    )
    found = data.task.collate(data.encoded["train"].table, ROWS, None).tensors

    assert np.allclose(found["pixel_values"], np.stack(want["pixel_values"]), atol=1e-5)
    assert np.array_equal(found["labels"], np.stack(want["labels"]))


@pytest.mark.parametrize("seed", range(40))
def test_the_measures_are_scikit_learns_and_torchmetrics(seed: int):
    from sklearn.metrics import accuracy_score, jaccard_score
    from torchmetrics.classification import MulticlassJaccardIndex

    rng, classes = np.random.default_rng(seed), 3
    sizes = rng.integers(3, 12, (4, 2))
    truth = [torch.from_numpy(rng.choice([0, 1, 2, IGNORED], size)) for size in sizes]
    told = [torch.from_numpy(rng.integers(0, 2 + seed % 2, size)) for size in sizes]
    counts = [pixel_counts(one, other, classes) for one, other in zip(told, truth, strict=True)]
    found = mask_metrics(*map(np.stack, zip(*counts, strict=True)))
    one, other = (torch.cat([each.flatten() for each in part]) for part in (told, truth))
    known = other != IGNORED

    assert found["mean_iou"] == pytest.approx(jaccard_score(other[known], one[known], average="macro"))
    assert found["mean_iou"] == pytest.approx(float(MulticlassJaccardIndex(classes, ignore_index=IGNORED)(one, other)))
    assert found["pixel_accuracy"] == pytest.approx(accuracy_score(other[known], one[known]))


def test_masks_are_judged_in_their_own_size(tmp_path: Path, model: Path):
    data = segmentation(tmp_path, model)
    whole, table = model_of(data), data.encoded["train"].table
    with torch.no_grad():
        batch = data.task.collate(table, ROWS, None)
        found = data.task.predict(whole, batch)
        logits = whole(**batch.inputs()).logits
    for row in ROWS:
        mask = np.asarray(Image.open(tmp_path / f"masks/{row}.png"))
        told = F.interpolate(logits[row : row + 1], mask.shape, mode="bilinear").argmax(1)[0].numpy()
        known = mask != IGNORED

        assert found["present"][row].sum() == known.sum() < mask.size
        assert found["right"][row].sum() == (told[known] == mask[known]).sum()


def test_an_image_and_its_mask_are_mirrored_together_anew_in_every_epoch(tmp_path: Path, model: Path):
    data = segmentation(tmp_path, model, training={"augmentation": {"flip": True}})
    table = data.encoded["train"].table
    plain, first, again, other = (data.task.collate(table, ROWS, epoch).tensors for epoch in (None, 0, 0, 1))
    turned = [not torch.equal(plain["pixel_values"][row], first["pixel_values"][row]) for row in ROWS]

    assert 0 < sum(turned) < len(turned)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["pixel_values"], other["pixel_values"])
    for row in ROWS[turned]:
        for name in ("pixel_values", "labels"):
            assert torch.equal(first[name][row], plain[name][row].flip(-1))


def test_a_mirrored_run_resumes_with_the_same_bits(tmp_path: Path, model: Path):
    training = {"precision": "fp32", "augmentation": {"flip": True}}
    document = manifest(TASK, model, write_rows(tmp_path, TASK, 16), training=training, checkpoint={"every": "2steps"})
    result, resumed, undisturbed = resumed_and_whole(run_config(tmp_path, document))

    assert result.resumed_from == 2
    assert resumed == undisturbed


def test_folders_of_images_and_masks_are_rows_and_a_file_names_the_classes(tmp_path: Path, model: Path):
    listed = segmentation(tmp_path, model)
    (tmp_path / "set").mkdir()
    for name in ("images", "masks"):
        shutil.copytree(tmp_path / name, tmp_path / "set" / name)
    (tmp_path / "set/classes.txt").write_text("ground\nlying\nstanding\nhidden\n")
    found = prepare_data(run_config(tmp_path, manifest(TASK, model, tmp_path / "set")))
    one, other = (each.task.collate(each.encoded["train"].table, ROWS, None).tensors for each in (listed, found))
    shown = found.task.pieces(found.encoded["train"].table, 0, found.processor)

    assert found.task.labels == ("ground", "lying", "standing", "hidden")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert shown[0].text == "[image images/0.png, 12x12 pixels, seen as 16x16; mask masks/0.png]"
    assert [each.text.split()[0] for each in shown[1:]] == ["ground", "lying", "unlabelled"]
    (tmp_path / "set/masks/3.png").unlink()
    with pytest.raises(DataError, match=r"images/3.png, row 1: column 'mask' holds nothing"):
        prepare_data(run_config(tmp_path, manifest(TASK, model, tmp_path / "set")))


def test_masks_that_count_from_one_are_reduced_and_their_zero_is_ignored(tmp_path: Path, model: Path):
    reduced = shutil.copytree(model, tmp_path / "reduced")
    given = json.loads((reduced / "preprocessor_config.json").read_text())
    (reduced / "preprocessor_config.json").write_text(json.dumps(given | {"do_reduce_labels": True}))
    data = segmentation(tmp_path, reduced)
    found = data.task.collate(data.encoded["train"].table, ROWS, None).tensors

    assert data.task.labels == ("0", "1")
    assert set(found["labels"].unique().tolist()) == {0, 1, IGNORED}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoded(np.zeros((12, 12, 3), np.uint8)), "is an image in colours (RGB)"),
        (encoded(np.full((12, 12), 300, np.uint16)), "holds the class 300, and 254 is the largest"),
        (encoded(np.zeros((12, 13), np.uint8)), "the mask has 13 x 12 pixels, its image 12 x 12"),
        (b"no image", "is no image that is known"),
    ],
)
def test_a_mask_that_cannot_be_used_is_named_with_file_row_and_remedy(
    content: bytes, message: str, tmp_path: Path, model: Path
):
    rows = write_rows(tmp_path, TASK, 4)
    (tmp_path / "masks/0.png").write_bytes(content)

    with pytest.raises(DataError, match=r"semantic-segmentation.jsonl, row 1: ") as caught:
        prepare_data(run_config(tmp_path, manifest(TASK, model, rows)))
    assert message in caught.value.message
    assert caught.value.remedy


def test_a_held_out_class_that_no_training_mask_has_is_refused(tmp_path: Path, model: Path):
    rows = write_rows(tmp_path, TASK, 6)
    (tmp_path / "masks/9.png").write_bytes(encoded(np.full((14, 16), 3, np.uint8)))
    write_image(tmp_path / "images/9.png", 9)
    (tmp_path / "test.jsonl").write_text('{"image": "images/9.png", "mask": "masks/9.png"}\n')
    test = {"test": {"uri": f"file://{tmp_path / 'test.jsonl'}"}}

    with pytest.raises(DataError, match="row 1: the mask of the test rows holds a class that no training mask has"):
        prepare_data(run_config(tmp_path, manifest(TASK, model, rows, data=test)))


def test_palettes_hold_numbers_and_not_colours():
    mask = np.array([[0, 1], [2, 255]], np.uint8)
    image = Image.fromarray(mask)
    image.putpalette([7] * 768)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    decoder = MaskDecoder()

    assert np.array_equal(decoder.decode(stream.getvalue()), mask)
    assert decoder.shape(stream.getvalue()) == (2, 2)
    assert decoder.values(stream.getvalue()) == (0, 1, 2)
    with pytest.raises(Undecodable):
        decoder.decode(b"")


def test_a_processor_that_crops_is_refused(tmp_path: Path, model: Path):
    cropping = shutil.copytree(model, tmp_path / "cropping")
    more = {"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}, "do_center_crop": True}
    given = json.loads((cropping / "preprocessor_config.json").read_text())
    (cropping / "preprocessor_config.json").write_text(json.dumps(given | more))

    with pytest.raises(ConfigError, match="images are cropped"):
        MaskSettings.load(ModelFiles("file://model", cropping))


def test_masks_are_told_as_files_beside_lines_or_as_bytes_in_parquet(tmp_path: Path, model: Path):
    train(run_config(tmp_path, manifest(TASK, model, write_rows(tmp_path, TASK, 8))))
    asked = tmp_path / "asked"
    for index in range(5):
        asked.mkdir(exist_ok=True)
        write_image(asked / f"{index}.png", index)
    for output in (tmp_path / "out/a.jsonl", tmp_path / "out/a.parquet"):
        output.parent.mkdir(exist_ok=True)
        request = predicting.Request(tmp_path / "artifact", asked, output, 2, None, tmp_path)
        assert predicting.predict(request, sys.stdout) == 5
    lines = [json.loads(line)["prediction"] for line in (tmp_path / "out/a.jsonl").read_text().splitlines()]
    cells = [row["prediction"] for row in pq.read_table(tmp_path / "out/a.parquet").to_pylist()]

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-files", "a.jsonl", "a.parquet"]
    for index, (line, cell) in enumerate(zip(lines, cells, strict=True)):
        data = (tmp_path / "out" / line["mask"]).read_bytes()
        assert line["mask"] == f"a-files/{index + 1:08d}.png"
        assert cell["mask"]["bytes"] == data
        mask = MaskDecoder().decode(data)
        assert mask.shape == np.asarray(Image.open(asked / f"{index}.png")).shape[:2]
        assert {name: pytest.approx((mask == int(name)).mean()) for name in line["shares"]} == line["shares"]
    with pytest.raises(ConfigError, match="the answers are files"):
        predicting.predict(predicting.Request(tmp_path / "artifact", asked, None, 2, None, tmp_path), io.StringIO())
