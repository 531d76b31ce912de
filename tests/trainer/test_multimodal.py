"""Texts, images and sounds together: what a row lacks has no effect but that it lacks it."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune_trainer.errors import ConfigError, DataError, ModelNotFound
from finetune_trainer.fusion import FusionForClassification
from finetune_trainer.tasks.base import Batch
from support.tiny import (
    manifest,
    model_of,
    one_row,
    prepared,
    run_config,
    save_tiny_model,
    train,
    write_image,
    write_rows,
    write_sound,
)

TASK = "multimodal-classification"
KINDS = ("late", "cross-attention")
PARTS = ("text", "image", "audio")
INPUT = {"text": "input_ids", "image": "pixel_values", "audio": "input_values"}


def whole_row(index: int) -> dict[str, Any]:
    there = {"text": f"the film is long {index}", "image": f"images/{index}.png", "audio": f"sounds/{index}.wav"}
    return {**there, "label": one_row(TASK, index)["label"]}


def rows_with_media(folder: Path, count: int = 8) -> list[dict[str, Any]]:
    for index in range(count):
        write_image(folder / "images" / f"{index}.png", index)
        write_sound(folder / "sounds" / f"{index}.wav", index)
    return [whole_row(index) for index in range(count)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", PARTS)
def test_what_stands_in_the_place_of_a_missing_part_is_not_seen_and_its_absence_is(
    kind: str, part: str, tmp_path: Path, tiny_media: Mapping[str, Path]
):
    rows = rows_with_media(tmp_path)
    data = prepared(tmp_path, TASK, tiny_media[kind], [*rows, whole_row(0) | {part: None}])
    model, table = model_of(data), data.encoded["train"].table
    with torch.no_grad():
        for each in model.fusion.parameters():
            each.add_(torch.randn_like(each) * 0.3)

    def scores(batch: Batch) -> np.ndarray:
        with torch.no_grad():
            return data.task.predict(model, batch)["scores"]

    batch = data.task.collate(table, np.array([0, 8]), None)
    tensors = {name: each.clone() for name, each in batch.tensors.items()}
    tensors[INPUT[part]][1] = tensors[INPUT[part]][0]
    tensors["attention_mask"][1] = tensors["attention_mask"][0]
    if part == "audio":
        tensors["audio_frames"][1] = tensors["audio_frames"][0]
        tensors.pop("audio_attention_mask", None)
    before, after = scores(batch), scores(Batch(tensors, batch.rows))

    assert np.allclose(before[1], after[1], atol=1e-5)
    assert not np.allclose(before[0], before[1], atol=1e-3)


def test_cross_attention_weighs_an_image_by_the_text_beside_it(tmp_path: Path, tiny_media: Mapping[str, Path]):
    """Late fusion of pooled vectors is the same whatever the order of an image's patches; this fusion is not blind."""
    data = prepared(tmp_path, TASK, tiny_media["cross-attention"], rows_with_media(tmp_path))
    model = model_of(data)
    batch = data.task.collate(data.encoded["train"].table, np.array([0, 1]), None)
    first = model.fusion.layers[0]
    seen: list[torch.Tensor] = []
    first.register_forward_pre_hook(lambda _, given: seen.append(given[2]))
    with torch.no_grad():
        data.task.predict(model, batch)
    latents, tokens, patches = model.config.fusion_latents, int(batch.tensors["attention_mask"].shape[1]), 17
    visible = seen[0]

    assert visible[:, :latents].all()
    assert torch.equal(visible[:, latents + 1 : latents + 1 + tokens], batch.tensors["attention_mask"].bool())
    assert not visible[:, latents].any()
    assert visible[:, latents + 2 + tokens : latents + 2 + tokens + patches].all()


def test_encoders_may_be_pretrained_or_from_nothing_and_pretrained_weights_are_used(
    tmp_path: Path, tiny_media: Mapping[str, Path]
):
    from safetensors.torch import load_file

    model = shutil.copytree(tiny_media["late"], tmp_path / "model")
    (model / "image" / "model.safetensors").unlink()
    rows = write_rows(tmp_path, TASK, 16)
    done = train(run_config(tmp_path, manifest(TASK, model, rows, training={"maxSteps": 1, "learningRate": 1e-9})))
    kept = load_file(tmp_path / "artifact" / "full" / "model.safetensors")
    text = load_file(model / "text" / "model.safetensors")

    assert done.outcome == "Complete"
    assert all(torch.allclose(kept[f"encoders.text.{name}"], each, atol=1e-6) for name, each in text.items())
    assert any(name.startswith("encoders.image.") for name in kept)
    with pytest.raises(ConfigError, match=r"weights start at random, encoders.image.* first; lora would leave"):
        train(run_config(tmp_path / "other", manifest(TASK, model, rows, method={"type": "lora"})))


def test_an_artifact_is_a_model_of_transformers_with_its_processors_beside_it(
    tmp_path: Path, tiny_media: Mapping[str, Path]
):
    rows = write_rows(tmp_path, TASK, 16)
    train(run_config(tmp_path, manifest(TASK, tiny_media["cross-attention"], rows, training={"maxSteps": 1})))
    folder = tmp_path / "artifact" / "full"
    found = FusionForClassification.from_pretrained(str(folder))

    assert found.config.fusion == "cross-attention"
    assert list(found.encoders) == list(PARTS)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", *PARTS}


@pytest.mark.parametrize("kind", ["whisper", "ast"])
def test_encoders_of_sounds_with_a_window_are_heard(kind: str, tmp_path: Path, tiny_media: Mapping[str, Path]):
    model = tmp_path / "model"
    model.mkdir()
    shutil.copyfile(tiny_media["late"] / "config.json", model / "config.json")
    save_tiny_model(model / "audio", kind)
    shutil.copytree(tiny_media["late"] / "text", model / "text")
    rows = [{name: each[name] for name in ("text", "audio", "label")} for each in rows_with_media(tmp_path)]
    rows[3]["audio"] = None
    data = prepared(tmp_path, TASK, model, rows)
    found = model_of(data)

    assert "encoders.audio.decoder" not in {name.rpartition(".")[0] for name, _ in found.named_modules()}
    with torch.no_grad():
        told = data.task.predict(found, data.task.collate(data.encoded["train"].table, np.arange(8), None))
    assert np.isfinite(told["loss"]).all()


def test_a_model_without_a_part_that_rows_have_and_one_with_a_part_that_none_has_are_told(
    tmp_path: Path, tiny_media: Mapping[str, Path]
):
    model = shutil.copytree(tiny_media["late"], tmp_path / "model")
    rows = rows_with_media(tmp_path)
    silent = [{**row, "audio": None} for row in rows]

    with pytest.raises(DataError, match="the model has an encoder for audio, but no training row has one"):
        prepared(tmp_path, TASK, model, silent)
    shutil.rmtree(model / "audio")
    with pytest.raises(DataError, match="row 1: has audio, but the model has no encoder for it"):
        prepared(tmp_path, TASK, model, rows)
    nothing = {"text": "", "image": None, "audio": None, "label": "a"}
    with pytest.raises(DataError, match="row 9: none of 'text', 'image', 'audio' holds anything"):
        prepared(tmp_path, TASK, model, [*rows, nothing])


def test_an_encoder_with_pickled_weights_alone_is_not_taken_for_one_from_nothing(
    tmp_path: Path, tiny_media: Mapping[str, Path]
):
    model = shutil.copytree(tiny_media["late"], tmp_path / "model")
    (model / "image" / "model.safetensors").rename(model / "image" / "pytorch_model.bin")

    with pytest.raises(ModelNotFound, match=r"model/image: only pickled weights \(pytorch_model.bin\)"):
        prepared(tmp_path, TASK, model, rows_with_media(tmp_path))


def test_a_model_that_is_no_fusion_is_refused_with_how_to_make_one(tmp_path: Path, tiny_bert: Path):
    with pytest.raises(ModelNotFound, match="a bert model is no fusion of encoders") as caught:
        prepared(tmp_path, TASK, tiny_bert, rows_with_media(tmp_path))
    assert json.loads(caught.value.remedy[caught.value.remedy.index("{") : caught.value.remedy.index("}") + 1])
