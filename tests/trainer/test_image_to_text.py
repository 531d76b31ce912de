"""Texts from images: what is learned of a row, how it is written, and what is refused."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune_trainer.errors import ConfigError
from finetune_trainer.preparation import prepare_data
from support.tiny import manifest, model_of, one_row, run_config, write_rows

CAPTIONS, QUESTIONS = "image-captioning", "visual-question-answering"
ROWS = np.arange(6)


@pytest.mark.parametrize("task", [CAPTIONS, QUESTIONS])
def test_the_loss_is_that_of_the_models_own_class_over_the_text_alone(
    task: str, tmp_path: Path, tiny_media: Mapping[str, Path]
):
    data = prepare_data(run_config(tmp_path, manifest(task, tiny_media["captioner"], write_rows(tmp_path, task))))
    model, table = model_of(data), data.encoded["train"].table
    batch = data.task.collate(table, ROWS, 0)
    labels = torch.full_like(batch.tensors["decoder_input_ids"], -100)
    labels.flatten()[batch.tensors["select"]] = batch.tensors["targets"]
    with torch.no_grad():
        found = data.task.loss_sum(model, batch) / data.task.targets(table, ROWS, 0)
        logits = model(**batch.inputs()).logits
        want = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    assert float(found) == pytest.approx(float(want), rel=1e-5)
    for row, each in zip(ROWS, labels, strict=True):
        learned = data.processor.tokenizer.decode(each[each >= 0].tolist())
        assert learned == one_row(task, int(row))["caption" if task == CAPTIONS else "answer"] + " [SEP]"


def test_a_question_stands_before_its_answer_and_is_not_learned(tmp_path: Path, tiny_media: Mapping[str, Path]):
    data = prepare_data(
        run_config(tmp_path, manifest(QUESTIONS, tiny_media["captioner"], write_rows(tmp_path, QUESTIONS)))
    )
    pieces = data.task.pieces(data.encoded["train"].table, 1, data.processor)

    assert [piece.supervised for piece in pieces] == [False, False, True]
    assert pieces[1].text == one_row(QUESTIONS, 1)["question"]
    assert pieces[2].text == one_row(QUESTIONS, 1)["answer"] + " [SEP]"


def test_a_text_longer_than_the_decoder_reads_is_cut_and_keeps_its_end(tmp_path: Path, tiny_media: Mapping[str, Path]):
    rows = write_rows(tmp_path, CAPTIONS)
    document = manifest(CAPTIONS, tiny_media["captioner"], rows, data={"maxLength": 8})
    long = rows.read_text().replace('"caption": "', '"caption": "' + "film " * 20)
    rows.write_text(long)
    data = prepare_data(run_config(tmp_path, document))
    batch = data.task.collate(data.encoded["train"].table, ROWS, 0)

    assert data.encoded["train"].cut == 48
    assert batch.tensors["decoder_input_ids"].shape == (6, 8)
    assert (batch.tensors["targets"].reshape(6, 8)[:, -1] == 102).all()


def test_a_model_without_a_decoder_is_refused(tmp_path: Path, tiny_media: Mapping[str, Path]):
    with pytest.raises(ConfigError, match="a clip model is no encoder of images with a decoder of texts"):
        prepare_data(run_config(tmp_path, manifest(CAPTIONS, tiny_media["clip"], write_rows(tmp_path, CAPTIONS))))
