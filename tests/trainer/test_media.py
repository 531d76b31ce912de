"""Images and sounds of rows: how they are named, looked at, decoded, kept and changed."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from finetune_api.spec import Augmentation
from finetune_trainer.data import looking
from finetune_trainer.data.augment import random_box, view
from finetune_trainer.data.formats import read_rows
from finetune_trainer.data.image_settings import ImageSettings
from finetune_trainer.data.images import ImageDecoder
from finetune_trainer.data.media import MediaColumn, Undecodable, Workers, source_of
from finetune_trainer.data.schema import Source
from finetune_trainer.data.sounds import SoundDecoder, resample
from finetune_trainer.errors import ConfigError, DataError
from finetune_trainer.preparation import prepare_data
from finetune_trainer.sources import ModelFiles
from support.tiny import (
    manifest,
    one_row,
    resumed_and_whole,
    run_config,
    save_tiny_model,
    train,
    write_image,
    write_rows,
)

TASK = "image-classification"


def encoded(image: Image.Image, kind: str = "PNG", **more: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def prepared(folder: Path, model: Path, data: Path, **sections: Any) -> Any:
    return prepare_data(run_config(folder, manifest(TASK, model, data, **sections)))


def pixels(found: Any) -> np.ndarray:
    table = found.encoded["train"].table
    return found.task.collate(table, np.arange(len(table)), None).tensors["pixel_values"].numpy()


def class_folders(folder: Path, count: int = 8) -> Path:
    for index in range(count):
        name = ("lying", "standing")[index % 2]
        (folder / "photos" / name).mkdir(parents=True, exist_ok=True)
        write_image(folder / "photos" / name / f"{index}.png", index)
    return folder / "photos"


def test_a_folder_per_class_paths_and_bytes_in_parquet_give_the_same_rows(tmp_path: Path, tiny_vit: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folders = class_folders(tmp_path)
    rows = [{"image": row.values["image"], "label": row.values["label"]} for row in read_rows(folders)]
    (folders.parent / "rows").mkdir()
    listed = folders.parent / "rows" / "list.csv"
    listed.write_text("file_name,label\n" + "".join(f"photos/{row['image']},{row['label']}\n" for row in rows))
    shutil.copytree(folders, listed.parent / "photos")
    cells = [row | {"image": {"bytes": (folders / row["image"]).read_bytes(), "path": None}} for row in rows]
    pq.write_table(pa.Table.from_pylist(cells), tmp_path / "cells.parquet", row_group_size=3)
    found = [prepared(tmp_path, tiny_vit, data) for data in (folders, listed, tmp_path / "cells.parquet")]

    assert found[0].task.labels == ("lying", "standing")
    assert pixels(found[0]).shape == (8, 3, 16, 16)
    for other in found[1:]:
        assert np.array_equal(pixels(found[0]), pixels(other))
        assert [e.label for e in other.encoded["train"].examples] == [
            e.label for e in found[0].encoded["train"].examples
        ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"", "is empty"),
        (b"hello", "is no image that is known"),
        (encoded(picture(64, 64))[:900], "is a damaged image"),
    ],
)
def test_an_image_that_cannot_be_used_is_named_with_file_row_and_remedy(
    content: bytes | None, message: str, tmp_path: Path, tiny_vit: Path
):
    rows = write_rows(tmp_path, TASK, 4)
    bad = tmp_path / "images/2.png"
    bad.unlink() if content is None else bad.write_bytes(content)

    with pytest.raises(DataError, match=r"image-classification.jsonl, row 3: 'images/2.png'") as caught:
        prepared(tmp_path, tiny_vit, rows)
    assert message in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "images/../../secret.png", "link/secret.png"])
def test_a_path_out_of_the_datas_folder_is_refused(name: str, tmp_path: Path, tiny_vit: Path):
    data = tmp_path / "data"
    data.mkdir()
    write_rows(data, TASK, 2)
    write_image(tmp_path / "secret.png", 0)
    (data / "link").symlink_to(tmp_path)
    rows = [one_row(TASK, 0), one_row(TASK, 1) | {"image": name}]
    (data / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    with pytest.raises(DataError, match=r"rows.jsonl, row 2: column 'image' (leads|is a link) out of the data's"):
        prepared(tmp_path, tiny_vit, data / "rows.jsonl")


def test_a_kept_set_and_one_decoded_late_give_the_same_pixels_by_any_number_of_threads(tmp_path: Path, tiny_vit: Path):
    found = prepared(tmp_path, tiny_vit, write_rows(tmp_path, TASK, 70))
    column = found.encoded["train"].table.media["image"]
    assert column.kept is not None
    late = [MediaColumn(column.sources, column.decoder, Workers(count)) for count in (1, 3)]
    want = [column.decoded(row) for row in range(70)]

    for each in late:
        assert looking.keep(tmp_path, each, budget_bytes=1000) is each
        assert all(np.array_equal(a, b) for a, b in zip(want, each.map(each.decoded, range(70)), strict=True))


def test_a_changed_image_changes_the_digest_and_what_is_trained_on(tmp_path: Path, tiny_vit: Path):
    rows = write_rows(tmp_path, TASK, 8)
    before, same = (prepared(tmp_path, tiny_vit, rows) for _ in range(2))
    want = pixels(before)
    write_image(tmp_path / "images/3.png", 99)
    after = prepared(tmp_path, tiny_vit, rows)

    assert before.digests == same.digests
    assert before.digests != after.digests
    assert [row for row in range(8) if not np.array_equal(want[row], pixels(after)[row])] == [3]


def test_orientation_transparency_depth_and_animation_are_decoded_as_they_look():
    image = picture(10, 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(image, exif=exif)
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    deep = Image.fromarray((np.full((3, 3), 128 * 256)).astype(np.uint16))
    decoder = ImageDecoder()

    assert decoder.shape(turned) == decoder.decode(turned).shape == (20, 10, 3)
    assert np.array_equal(decoder.decode(turned), np.rot90(np.asarray(image), -1))
    assert (decoder.decode(encoded(clear)) == 255).all()
    assert (decoder.decode(encoded(deep)) == 128).all()
    assert decoder.decode(encoded(image, "GIF", save_all=True, append_images=[image])).shape == (10, 20, 3)


SETTINGS = [
    {"image_processor_type": "ViTImageProcessor", "size": {"height": 24, "width": 20}, "resample": 2},
    {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 28}, "crop_pct": 0.875, "resample": 3},
    {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "resample": 3},
    {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 30},
        "crop_size": {"height": 24, "width": 24},
        "do_center_crop": True,
        "resample": 3,
    },
]


@pytest.mark.parametrize("given", SETTINGS, ids=lambda each: each["image_processor_type"])
@pytest.mark.parametrize("size", [(40, 61), (61, 40), (24, 24)])
def test_pixels_are_those_of_transformers(given: dict[str, Any], size: tuple[int, int], tmp_path: Path):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    given = given | {"image_mean": [0.48, 0.45, 0.41], "image_std": [0.26, 0.27, 0.28]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    (tmp_path / "config.json").write_text("{}")
    ours = ImageSettings.load(ModelFiles("file://model", tmp_path))
    kinds = {"V": ViTImageProcessorPil, "Co": ConvNextImageProcessorPil, "CL": CLIPImageProcessorPil}
    theirs = next(kind for name, kind in kinds.items() if given["image_processor_type"].startswith(name))(**given)
    image = picture(*size)
    want = theirs(image, return_tensors="np")["pixel_values"][0]

    assert np.allclose(ours.normalised(ours.whole(np.asarray(image))), want, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.05, 1.0), st.integers(0, 2**31))
def test_a_random_part_lies_in_the_image_and_is_large_enough(height: int, width: int, least: float, seed: int):
    left, top, right, bottom = random_box(height, width, least, np.random.default_rng(seed))
    rounding = height + width

    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert (right - left) * (bottom - top) >= least * height * width - rounding


def test_a_view_depends_on_seed_epoch_and_row_alone_and_shares_its_label_by_area(tmp_path: Path, tiny_vit: Path):
    found = prepared(tmp_path, tiny_vit, write_rows(tmp_path, TASK, 6))
    column, known = found.encoded["train"].table.media["image"], found.processor
    wanted = Augmentation(crop=0.3, flip=True, cutmix=1.0)
    one, again = (view(column, known, wanted, 1, (7, 2)) for _ in range(2))
    others = [view(column, known, wanted, row, seed) for row, seed in ((1, (7, 3)), (1, (8, 2)), (2, (7, 2)))]
    mixed = view(column, known, Augmentation(mixup=1.0), 1, (7, 2))
    own, partner = (known.normalised(known.whole(column.decoded(row))) for row in (1, mixed.partner))

    assert np.array_equal(one.pixels, again.pixels)
    assert not any(np.array_equal(one.pixels, other.pixels) for other in others)
    assert np.allclose(mixed.pixels, mixed.share * own + (1 - mixed.share) * partner, atol=1e-5)


def test_a_run_with_every_augmentation_resumes_with_the_same_bits(tmp_path: Path, tiny_vit: Path):
    training = {"precision": "fp32", "augmentation": {"crop": 0.5, "flip": True, "mixup": 0.2, "cutmix": 1.0}}
    rows = write_rows(tmp_path, TASK, 20)
    config = run_config(tmp_path, manifest(TASK, tiny_vit, rows, training=training, checkpoint={"every": "2steps"}))
    result, resumed, undisturbed = resumed_and_whole(config)

    assert result.resumed_from == 2
    assert resumed == undisturbed


@pytest.mark.parametrize("kind", ["resnet", "convnext"])
@pytest.mark.parametrize("method", ["full", "head"])
def test_convolutional_networks_are_trained_whole_or_at_the_head(kind: str, method: str, tmp_path: Path):
    model = save_tiny_model(tmp_path / kind, kind)
    rows = write_rows(tmp_path, TASK, 16)
    done = train(run_config(tmp_path, manifest(TASK, model, rows, method={"type": method}, training={"maxSteps": 2})))

    assert done.outcome == "Complete"


def test_a_network_without_linear_layers_has_nothing_for_lora(tmp_path: Path):
    model = save_tiny_model(tmp_path / "resnet", "resnet")
    rows = write_rows(tmp_path, TASK, 4)

    with pytest.raises(ConfigError, match="a resnet model has no linear layers") as caught:
        train(run_config(tmp_path, manifest(TASK, model, rows, method={"type": "lora"})))
    assert "full or head" in caught.value.remedy


def test_a_classifier_over_other_classes_is_replaced(tmp_path: Path, tiny_vit: Path):
    import transformers as t

    model = shutil.copytree(tiny_vit, tmp_path / "vit")
    config = t.ViTConfig.from_pretrained(str(tiny_vit), num_labels=7)
    t.ViTForImageClassification(config).save_pretrained(model)
    found = train(run_config(tmp_path, manifest(TASK, model, write_rows(tmp_path, TASK, 8), method={"type": "lora"})))

    assert found.outcome == "Complete"


@pytest.mark.parametrize(("from_hz", "to_hz"), [(8000, 16000), (44100, 16000), (22050, 16000), (16000, 16000)])
def test_samples_at_another_rate_are_scipys(from_hz: int, to_hz: int):
    from math import gcd

    from scipy.signal import resample_poly

    samples = np.random.default_rng(0).normal(size=2500).astype(np.float32)
    want = resample_poly(samples, to_hz // gcd(from_hz, to_hz), from_hz // gcd(from_hz, to_hz))
    found = resample(samples, from_hz, to_hz)

    assert found.shape == want.shape
    assert np.allclose(found, want, atol=1e-4)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_a_sound_becomes_one_channel_at_the_models_rate(kind: str):
    stream = io.BytesIO()
    tone = np.sin(np.arange(4000) / 8000 * 2 * np.pi * 440).astype(np.float32) * 0.5
    soundfile.write(stream, np.stack([tone, tone], axis=1), 8000, format=kind)
    decoder = SoundDecoder(16000)
    found = decoder.decode(stream.getvalue())

    assert decoder.shape(stream.getvalue()) == found.shape == (8000,)
    assert np.abs(np.fft.rfft(found)).argmax() == 220


def test_a_sound_without_samples_or_without_its_end_is_told(tmp_path: Path):
    stream = io.BytesIO()
    soundfile.write(stream, np.zeros(0, np.float32), 8000, format="WAV")

    with pytest.raises(Undecodable, match="no length"):
        SoundDecoder(8000).shape(stream.getvalue())
    with pytest.raises(Undecodable, match="no sound"):
        SoundDecoder(8000).shape(b"RIFF")
    (tmp_path / "list.jsonl").write_text('{"audio": "a.wav", "text": "one"}\n')
    (row,) = read_rows(tmp_path / "list.jsonl")
    assert source_of(row, "audio") == Source(tmp_path / "a.wav", "a.wav", "list.jsonl, row 1")
