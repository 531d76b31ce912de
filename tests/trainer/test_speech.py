"""What is particular to sounds: CTC, error rates, letters, what is hidden while training, and what is refused."""

import itertools
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune_trainer.data.letters import letters_of, load_letters
from finetune_trainer.errors import ConfigError, DataError
from finetune_trainer.models import load_model
from finetune_trainer.objectives import ctc_losses
from finetune_trainer.preparation import prepare_data
from finetune_trainer.tasks.speech_encoder import exact_encoder
from finetune_trainer.tasks.speech_masking import Stretches
from finetune_trainer.tasks.speech_metrics import error_rates
from support.tiny import manifest, model_of, one_row, run_config, train, write_rows, write_sound

SPEECH, AUDIO = "speech-recognition", "audio-classification"


def heard(folder: Path, task: str, model: Path, **sections: Any) -> Any:
    return prepare_data(run_config(folder, manifest(task, model, write_rows(folder, task), **sections)))


def test_error_rates_are_jiwers():
    import jiwer

    rng = random.Random(0)
    words = ["the", "cat", "sat", "\u00e9", "mat.", "a", "Cat"]
    for _ in range(1000):
        gold = [" ".join(rng.choice(words) for _ in range(rng.randint(1, 9))) for _ in range(rng.randint(1, 3))]
        told = [" ".join(rng.choice([each, *words]) for each in text.split() if rng.random() > 0.2) for text in gold]
        ours = error_rates(told, gold)

        assert ours["wer"] == pytest.approx(jiwer.wer(gold, told))
        assert ours["cer"] == pytest.approx(jiwer.cer(gold, told))


def test_ctc_is_the_sum_over_every_way_to_lay_the_letters_onto_the_frames():
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 3)
    frames, targets = torch.tensor([5, 4, 3]), [[1, 2], [1, 1], [2]]
    padded = torch.tensor([[*row, 0][:2] for row in targets])
    found = ctc_losses(logits, frames, padded, torch.tensor([len(row) for row in targets]), 0)
    for row, (count, target) in enumerate(zip(frames.tolist(), targets, strict=True)):
        scores = logits[row, :count].log_softmax(-1)
        paths = [
            sum(scores[at, letter] for at, letter in enumerate(path))
            for path in itertools.product(range(3), repeat=count)
            if [letter for letter, _ in itertools.groupby(path) if letter] == target
        ]

        assert float(found[row]) == pytest.approx(-float(torch.stack(paths).logsumexp(0)), rel=1e-5)


def test_the_ctc_loss_is_the_models_own_summed_and_divided_by_letters(tmp_path: Path, tiny_media: Mapping[str, Path]):
    data = heard(tmp_path, SPEECH, tiny_media["hubert"])
    table, model, rows = data.encoded["train"].table, model_of(data), np.arange(6)
    batch = data.task.collate(table, rows, None)
    labels = batch.tensors["target"].clone()
    labels[torch.arange(labels.shape[1])[None, :] >= batch.tensors["letters"][:, None]] = -100
    with torch.no_grad():
        theirs = float(model(**batch.inputs(), labels=labels).loss)

        assert model.config.ctc_loss_reduction == "sum"
        assert float(data.task.loss_sum(model, batch)) == pytest.approx(theirs, rel=1e-5)
    assert data.task.targets(table, rows, None) == float(batch.tensors["letters"].sum())


def test_letters_and_texts_are_those_of_transformers_tokenizer(tmp_path: Path):
    from transformers import AutoTokenizer

    letters = letters_of(["a dog", "see it", "\u00e9t\u00e9|x"])
    letters.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    rng = random.Random(0)

    assert load_letters(tmp_path) == letters
    for _ in range(200):
        text = " ".join("".join(rng.choice("adogse\u00e9xq") for _ in range(rng.randint(1, 5))) for _ in range(3))
        ids = [rng.randrange(len(letters.numbers)) for _ in range(12)]
        assert letters.encode(text) == theirs(text).input_ids
        assert letters.decode(ids) == theirs.decode(ids)


def test_a_model_that_writes_capitals_alone_is_judged_by_them():
    letters = letters_of(["CAT"])

    assert letters.spelled("  Cat \n a") == "CAT A"
    assert letters.decode(letters.encode("cat")) == "CAT"


@pytest.mark.parametrize("kind", ["wav2vec2", "whisper"])
def test_what_is_hidden_follows_seed_epoch_and_row_alone(kind: str, tmp_path: Path, tiny_media: Mapping[str, Path]):
    data = heard(tmp_path, SPEECH, tiny_media[kind])
    table = data.encoded["train"].table
    name = "hidden_frames" if kind == "wav2vec2" else "input_features"

    def hidden(epoch: int | None, *rows: int) -> torch.Tensor | None:
        np.random.seed(len(rows))  # noqa: NPY002 - the generator that must not matter
        found = data.task.collate(table, np.array(rows), epoch).tensors.get(name)
        return None if found is None else found[0, ..., : int(table.lengths[rows[0]])]

    first, company, second, judged = hidden(0, 3), hidden(0, 3, 7, 9), hidden(1, 3), hidden(None, 3)

    assert first is not None
    assert torch.equal(first, company)
    assert not torch.equal(first, second)
    assert judged is None if kind == "wav2vec2" else not torch.equal(first, judged)


def test_hidden_frames_change_what_is_learned_and_the_models_own_are_not_drawn(
    tmp_path: Path, tiny_media: Mapping[str, Path]
):
    data = heard(tmp_path, SPEECH, tiny_media["wav2vec2"], training={"dropout": 0.0})
    model = load_model(data.files, data.task.head, pretrained=True, dropout=0.0).model.train()

    def loss(epoch: int | None) -> float:
        batch = data.task.collate(data.encoded["train"].table, np.arange(4), epoch)
        return float(data.task.loss_sum(model, batch).detach())

    assert loss(0) == loss(0)
    assert loss(None) == loss(None)
    assert len({loss(0), loss(1), loss(None)}) == 3


def test_stretches_hide_the_share_that_the_config_asks_for():
    rng = np.random.default_rng(0)
    shares = [Stretches(0.2, 5, 0).choose(200, rng).mean() for _ in range(400)]

    assert 0.15 < np.mean(shares) < 0.2  # stretches may overlap
    assert not Stretches(0.2, 5, 2).choose(4, rng).any()
    assert Stretches(0.0, 5, 2).choose(50, rng).sum() == 0


def test_padding_would_change_a_group_normalised_row_without_the_exact_encoder(
    tmp_path: Path, tiny_media: Mapping[str, Path]
):
    data = heard(tmp_path, SPEECH, tiny_media["wav2vec2"])
    table, model = data.encoded["train"].table, model_of(data)
    short, long = int(table.lengths.argmin()), int(table.lengths.argmax())
    alone, pair = (data.task.collate(table, np.array(rows), None) for rows in ([short], [short, long]))
    frames = int(alone.tensors["frames"][0])

    def scores(batch: Any) -> torch.Tensor:
        return model(**batch.inputs()).logits[0, :frames]

    with torch.no_grad():
        expected = scores(alone)
        plain = scores(pair)
        with exact_encoder(model, pair):
            exact = scores(pair)

    assert (plain - expected).abs().max() > 1e-3
    assert torch.allclose(exact, expected, atol=1e-5)
    assert "forward" not in vars(model.base_model.feature_extractor)
    assert "_mask_hidden_states" not in vars(model.base_model)


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # WavLM's own way
@pytest.mark.parametrize("kind", ["wavlm", "whisper", "ast"])
def test_other_models_classify_a_sound_in_a_batch_as_alone(kind: str, tmp_path: Path, tiny_media: Mapping[str, Path]):
    data = heard(tmp_path, AUDIO, tiny_media[kind])
    table, model, rows = data.encoded["train"].table, model_of(data), np.arange(6)
    with torch.no_grad():
        whole = data.task.predict(model, data.task.collate(table, rows, None))["scores"]
        alone = [data.task.predict(model, data.task.collate(table, row.reshape(1), None))["scores"] for row in rows]

    assert whole.shape == (6, 2)
    assert np.abs(whole - whole[0]).max() > 1e-5
    assert np.allclose(whole, np.concatenate(alone), atol=1e-5)


def test_pretrained_convolutions_stay_as_they_are_and_random_ones_are_trained(
    tmp_path: Path, tiny_media: Mapping[str, Path]
):
    from finetune_trainer.methods import prepare

    config = run_config(tmp_path, manifest(SPEECH, tiny_media["wav2vec2"], write_rows(tmp_path, SPEECH)))
    data = prepare_data(config)
    for pretrained in (True, False):
        loaded = load_model(data.files, data.task.head, pretrained=pretrained)
        prepared = prepare(config.spec.method, loaded)
        frozen = {name for name, each in prepared.model.named_parameters() if not each.requires_grad}

        assert frozen == set(loaded.frozen)
        assert bool(frozen) is pretrained
        assert all(".feature_extractor." in name for name in frozen)


@pytest.mark.parametrize("kind", ["wav2vec2", "whisper"])
def test_an_artifact_is_found_whole_by_transformers_own_pipeline(
    kind: str, tmp_path: Path, tiny_media: Mapping[str, Path]
):
    from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoTokenizer

    rows = write_rows(tmp_path, SPEECH, 24)
    config = run_config(tmp_path, manifest(SPEECH, tiny_media[kind], rows, training={"maxSteps": 1}))
    train(config)
    data, folder = prepare_data(config), tmp_path / "artifact/full"
    auto = AutoModelForCTC if kind == "wav2vec2" else AutoModelForSpeechSeq2Seq
    model = auto.from_pretrained(folder).eval()
    batch = data.task.collate(data.encoded["train"].table, np.array([0]), None)
    name = data.processor.input_name
    samples = data.encoded["train"].table.media["audio"].decoded(0)
    extractor, tokenizer = AutoFeatureExtractor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    theirs = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt")[name]

    assert torch.allclose(theirs, batch.tensors[name], atol=1e-6)
    with torch.no_grad():
        ours = data.task.predict(model, batch)["text"][0]
        if kind == "wav2vec2":
            assert ours == tokenizer.decode(model(theirs).logits[0].argmax(-1))
    assert tokenizer("the").input_ids


def test_sounds_that_cannot_carry_their_text_are_named(tmp_path: Path, tiny_media: Mapping[str, Path]):
    row = one_row(SPEECH, 0) | {"text": "many more letters than there are frames in this short sound of a single tone"}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    write_sound(tmp_path / row["audio"], 0)

    with pytest.raises(DataError, match=r"rows.jsonl, row 1: a sound of 39 frames for a text that needs 7\d"):
        prepare_data(run_config(tmp_path, manifest(SPEECH, tiny_media["wav2vec2"], path)))


def test_sounds_longer_than_the_window_are_refused_by_a_recogniser_and_cut_by_a_classifier(
    tmp_path: Path, tiny_media: Mapping[str, Path]
):
    settings = json.loads((tiny_media["whisper"] / "preprocessor_config.json").read_text())
    assert settings["chunk_length"] == 1
    rows = [one_row(AUDIO, index) | {"text": "dog"} for index in range(4)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for index, row in enumerate(rows):
        write_sound(tmp_path / row["audio"], index)
    with (tmp_path / rows[3]["audio"]).open("rb") as file:
        assert file.read(4) == b"RIFF"
    long = tmp_path / rows[3]["audio"]
    import soundfile

    soundfile.write(long, np.tile(soundfile.read(long)[0], 4), 2000)

    found = prepare_data(run_config(tmp_path, manifest(AUDIO, tiny_media["whisper"], path)))
    assert found.encoded["train"].cut == 1
    with pytest.raises(DataError, match=r"row 4: a sound of 2.2 s, the model hears 1.0 s"):
        prepare_data(run_config(tmp_path, manifest(SPEECH, tiny_media["whisper"], path)))


def test_letters_are_not_smoothed(tmp_path: Path, tiny_media: Mapping[str, Path]):
    with pytest.raises(ConfigError, match="labelSmoothing: CTC"):
        heard(tmp_path, SPEECH, tiny_media["wav2vec2"], training={"labelSmoothing": 0.1})
