"""Images and texts: the loss of the step, how they find each other, and what is refused."""

import json
import shutil
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.coupling import introduce
from finetune_trainer.distributed import Group
from finetune_trainer.errors import ConfigError, DataError
from finetune_trainer.preparation import prepare_data
from finetune_trainer.tasks.retrieval import nearest, recalls
from support.tiny import manifest, model_of, one_row, prepared, run_config, write_image, write_rows

TASK = "image-text"
ROWS = np.arange(12)


def of_kind(folder: Path, model: Path) -> Any:
    return prepare_data(run_config(folder, manifest(TASK, model, write_rows(folder, TASK))))


@pytest.mark.parametrize("kind", ["clip", "siglip", "dual"])
def test_loss_and_its_gradient_in_parts_are_those_of_the_models_own_class(
    kind: str, tmp_path: Path, tiny_media: Mapping[str, Path]
):
    data = of_kind(tmp_path, tiny_media[kind])
    model, task, table = model_of(data), data.task, data.encoded["train"].table
    whole = task.collate(table, ROWS, 0)
    reference = model(**whole.inputs(), return_loss=True).loss
    reference.backward()
    want = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    parts = [task.collate(table, rows, 0) for rows in np.array_split(ROWS, 5)]
    found = 0.0
    for batch in introduce(task, model, parts, Group(0, 1, torch.device("cpu")), lambda _: nullcontext()):
        loss = task.loss_sum(model, batch) / task.targets(table, ROWS, 0)
        loss.backward()
        found += float(loss.detach())
    norm = torch.stack([each.norm() for each in want.values()]).norm()

    assert found == pytest.approx(float(reference.detach()), rel=1e-5)
    assert float(want["logit_scale"]) != 0.0
    for name, each in model.named_parameters():
        if each.grad is not None:
            assert (each.grad - want[name]).norm() <= 1e-4 * norm, name


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_loss_of_a_judged_set_is_that_of_one_step_over_all_of_it(
    kind: str, tmp_path: Path, tiny_media: Mapping[str, Path]
):
    data = of_kind(tmp_path, tiny_media[kind])
    model, encoded = model_of(data), data.encoded["train"]
    every = np.arange(len(encoded.table))
    with torch.no_grad():
        told = data.task.metrics(
            data.task.predict(model, data.task.collate(encoded.table, every, None)), encoded.examples
        )
        want = data.task.loss_sum(model, data.task.collate(encoded.table, every, 0)) / len(every)

    assert set(told) == set(data.task.metric_names)
    assert told["loss"] == pytest.approx(float(want), rel=1e-5)


def brute(images: np.ndarray, texts: np.ndarray, names: list[tuple[str, str]]) -> dict[str, float]:
    """Recall by definition: sort everything, look whether a right one is among the first."""
    found: dict[str, float] = {}
    for name, asked, searched in (("image_to_text", 0, 1), ("text_to_image", 1, 0)):
        vectors = (
            {pair[side]: (images, texts)[side][at] for at, pair in enumerate(names)} for side in (asked, searched)
        )
        queries, gallery = vectors
        for most in (1, 5):
            hits = []
            for query, vector in queries.items():
                best = sorted(gallery, key=lambda each: -float(vector @ gallery[each]))[:most]
                right = {pair[searched] for pair in names if pair[asked] == query}
                hits.append(bool(right & set(best)))
            found[f"{name}_recall_at_{most}"] = float(np.mean(hits))
    return found


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_recall_is_that_of_sorting_everything_when_images_and_texts_repeat(
    rows: int, images: int, texts: int, seed: int
):
    rng = np.random.default_rng(seed)
    pairs = [(int(rng.integers(images)), int(rng.integers(texts))) for _ in range(rows)]
    all_images, all_texts = (rng.normal(size=(count, 8)) for count in (images, texts))
    names = [(f"i{one}", f"t{two}") for one, two in pairs]
    mine = all_images[[one for one, _ in pairs]], all_texts[[two for _, two in pairs]]

    assert recalls(*mine, names) == brute(*mine, names)


def test_the_nearest_of_repeated_choices_is_told_by_its_name():
    choices = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])

    assert nearest(np.array([[0.9, 0.1], [0.1, 0.9]]), choices, ["a", "b", "a"]) == ["a", "b"]


def test_rows_with_an_image_or_a_text_alone_are_answered(tmp_path: Path, tiny_media: Mapping[str, Path]):
    from finetune_trainer import predicting
    from support.tiny import train

    train(run_config(tmp_path, manifest(TASK, tiny_media["clip"], write_rows(tmp_path, TASK))))
    row = one_row(TASK, 3)
    whole = {"image": row["image"], "caption": row["caption"]}
    asked = [whole | {"caption": None}, whole, whole | {"image": None}]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(each) + "\n" for each in asked))
    output = tmp_path / "answers.jsonl"
    request = predicting.Request(tmp_path / "artifact", tmp_path / "asked.jsonl", output, 8, None, tmp_path)
    predicting.predict(request, sys.stdout)
    image, both, text = (json.loads(line)["prediction"] for line in output.read_text().splitlines())

    assert (set(image), set(text)) == ({"imageVector"}, {"textVector"})
    assert np.allclose(image["imageVector"], both["imageVector"], atol=1e-5)
    assert np.allclose(text["textVector"], both["textVector"], atol=1e-5)
    assert both["score"] == pytest.approx(float(np.dot(both["imageVector"], both["textVector"])), abs=1e-5)


def test_a_tokenizer_that_writes_no_end_where_the_model_looks_for_it_is_refused(
    tmp_path: Path, tiny_media: Mapping[str, Path]
):
    model = shutil.copytree(tiny_media["clip"], tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 7
    (model / "config.json").write_text(json.dumps(config))

    with pytest.raises(
        ConfigError, match=r"the vector of a text is that of the token 7, but the tokenizer ends .* 102"
    ):
        of_kind(tmp_path, model)


def test_a_model_of_texts_alone_is_refused(tmp_path: Path, tiny_bert: Path, tiny_vit: Path):
    model = shutil.copytree(tiny_bert, tmp_path / "model")
    shutil.copyfile(tiny_vit / "preprocessor_config.json", model / "preprocessor_config.json")

    with pytest.raises(ConfigError, match="a bert model has no encoders of images and texts"):
        of_kind(tmp_path, model)


def test_a_row_without_caption_is_told(tmp_path: Path, tiny_media: Mapping[str, Path]):
    write_image(tmp_path / "images" / "0.png", 0)

    with pytest.raises(DataError, match="row 1: column 'caption' is empty"):
        prepared(tmp_path, TASK, tiny_media["clip"], [one_row(TASK, 0) | {"caption": " "}])
