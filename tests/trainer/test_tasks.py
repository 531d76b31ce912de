"""What is particular to a task: its data, its errors, its predictions. What all share is in test_invariance."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune_trainer.data.formats import Row, read_rows
from finetune_trainer.data.schema import to_examples
from finetune_trainer.errors import ConfigError, DataError
from finetune_trainer.tasks import TASKS, next_sentence
from support import toy_task
from support.tiny import (
    CASES,
    manifest,
    model_of,
    one_row,
    prepared,
    resumed_and_whole,
    run_config,
    text,
    train,
    write_rows,
)


def test_a_task_is_one_file_and_trains_is_judged_and_handed_over_like_all_others(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
):
    assert len(Path(toy_task.__file__).read_text().splitlines()) <= 60
    monkeypatch.setitem(TASKS, "love", toy_task.MODULE)
    rows = write_rows(tmp_path, "masked-lm", 96)
    training = {"maxSteps": 8, "batchSize": 16, "learningRate": 0.003}
    document = manifest("masked-lm", tiny_bert, rows, training=training, data={"test": {"fraction": 0.25}})
    config = run_config(tmp_path, document)
    done = train(config.model_copy(update={"spec": config.spec.model_copy(update={"task": "love"})}))

    assert done.outcome == "Complete"
    assert set(done.metrics) == {"test/loss", "test/accuracy"}
    assert (tmp_path / "artifact/full/model.safetensors").exists()


@pytest.mark.parametrize("task", CASES)
def test_a_resumed_run_ends_with_the_same_bits(task: str, tmp_path: Path, tiny: dict[str, Path]):
    rows = write_rows(tmp_path, task)
    document = manifest(task, tiny[task], rows, training={"precision": "fp32"}, checkpoint={"every": "2steps"})
    config = run_config(tmp_path, document)
    result, resumed, undisturbed = resumed_and_whole(config)

    assert result.resumed_from == 2
    assert resumed == undisturbed


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("token-classification", {"tokens": ["a", "b"], "tags": ["O"]}, "holds 2 words, column 'tags' 1 tags"),
        ("token-classification", {"tokens": "a b", "tags": ["O"]}, "column 'tokens' holds str, not a list"),
        ("token-classification", {"tokens": [], "tags": []}, "column 'tokens' holds an empty list"),
        ("question-answering", {"context": "a b", "question": "q", "answers": ["c"]}, "does not hold the answer 'c'"),
        (
            "question-answering",
            {"context": "a b", "question": "q", "answers": {"text": ["b"], "answer_start": [0]}},
            "does not hold the answer 'b' at character 0",
        ),
        (
            "question-answering",
            {"context": "a b", "question": "q", "answers": {"text": ["b"], "answer_start": []}},
            "not at one character each",
        ),
        ("question-answering", {"context": "a b", "question": "", "answers": ["a"]}, "column 'question' is empty"),
        ("question-answering", {"context": "a b", "question": "q", "answers": 7}, "holds no answers (found 7)"),
        ("multiple-choice", {"question": "q", "choices": ["a"], "label": 0}, "column 'choices' holds 1 choices"),
        ("multiple-choice", {"question": "q", "choices": ["a", "b"], "label": 2}, "column 'label' holds '2'"),
        ("multiple-choice", {"question": "q", "choices": ["a", "b"], "label": "c"}, "column 'label' holds 'c'"),
        ("translation", {"source": "a", "target": None}, "column 'target' holds nothing, not a text"),
        ("summarization", {"text": "a", "summary": " "}, "column 'summary' is empty"),
        ("recommendation", {"items": ["a"]}, "column 'items' holds one item"),
    ],
)
def test_a_row_that_cannot_play_its_role_is_named_with_its_number(task: str, row: dict[str, Any], message: str):
    rows = [Row("f.jsonl", 1, one_row(task, 0)), Row("f.jsonl", 2, row)]

    with pytest.raises(DataError) as caught:
        to_examples(rows, TASKS[task].read, {})

    assert caught.value.message.startswith("f.jsonl, row 2: ")
    assert message in caught.value.message
    assert caught.value.remedy


def test_a_tag_that_training_never_sees_is_named_by_its_row(tmp_path: Path, tiny_bert: Path):
    (tmp_path / "test.jsonl").write_text('{"tokens": ["a"], "tags": ["B-NEW"]}\n')
    rows = [one_row("token-classification", index) for index in range(8)]
    test = {"test": {"uri": f"file://{tmp_path / 'test.jsonl'}"}}

    with pytest.raises(DataError, match=r"^test.jsonl, row 1: the tag 'B-NEW'"):
        prepared(tmp_path, "token-classification", tiny_bert, rows, data=test)


def test_a_model_without_a_decoder_cannot_translate_and_says_so_before_it_is_loaded(tmp_path: Path, tiny_bert: Path):
    with pytest.raises(ConfigError, match="needs a model with an encoder and a decoder"):
        prepared(tmp_path, "translation", tiny_bert, [one_row("translation", 0)])


def test_a_word_is_judged_by_its_first_token_and_one_that_was_cut_off_counts_as_untagged(
    tmp_path: Path, tiny_bert: Path
):
    rows = [{"tokens": ["unbelievably", "dog", "film"] * 5, "tags": ["B-A", "O", "B-A"] * 5}] * 4
    data = prepared(tmp_path, "token-classification", tiny_bert, rows, data={"maxLength": 12})
    train = data.encoded["train"]
    words = train.table.row("words", 0)
    seen = int(words.max())
    right = np.array([0, 1, 0] * 5)[:seen]
    predictions = {"loss": np.zeros(4), "words": np.ones(4), "tags": np.array([right] * 4 + [None], dtype=object)[:4]}
    found = data.task.metrics(predictions, train.examples)

    assert seen < 15
    assert sorted(words[words > 0]) == list(range(1, seen + 1))
    assert train.cut == 4
    assert found["precision"] == 1.0
    assert found["recall"] == pytest.approx(sum(right == 0) / 10)


def test_tagged_words_are_read_line_by_line_and_a_word_without_tag_is_named(tmp_path: Path):
    path = tmp_path / "rows.conll"
    path.write_text("-DOCSTART- -X- O\n\nJohn NNP B-PER\nsat VBD O\n\n\nhere RB O")

    assert [(row.number, row.values) for row in read_rows(path)] == [
        (3, {"tokens": ["John", "sat"], "tags": ["B-PER", "O"]}),
        (7, {"tokens": ["here"], "tags": ["O"]}),
    ]
    path.write_text("John B-PER\nsat\n")
    with pytest.raises(DataError, match=r"rows.conll, row 2: a word without a tag"):
        read_rows(path)


@pytest.mark.parametrize("length", [16, 24, 64])
def test_every_answer_lies_whole_in_a_window_and_is_found_there_letter_by_letter(
    tmp_path: Path, tiny_bert: Path, length: int
):
    context = " , ".join(text(index) for index in range(12))
    places = range(0, len(context) - 12, 7)
    rows: list[dict[str, Any]] = []
    for at in places:
        start = context.index(" ", at) + 1
        answer = context[start : context.index(" ", start)]
        rows.append({"context": context, "question": "which", "answers": {"text": [answer], "answer_start": [start]}})
    data = prepared(tmp_path, "question-answering", tiny_bert, rows, data={"maxLength": length})
    table, examples = data.encoded["train"].table, data.encoded["train"].examples
    found: dict[int, str] = {}
    for row, example in enumerate(examples):
        first, last = table.dense["span"][row]
        if last:
            begin, end = table.row("begin", row)[first] - 1, table.row("end", row)[last] - 1
            found[id(example)] = example.text[begin:end]
            assert example.starts[0] == begin

    assert len(examples) > len(rows)
    assert table.lengths.max() <= length
    assert [found[id(example)] for example in {id(each): each for each in examples}.values()] == [
        row["answers"]["text"][0] for row in rows
    ]


def test_the_best_window_of_a_row_gives_its_answer_and_no_answer_must_beat_it(tmp_path: Path, tiny_bert: Path):
    rows = [
        {"context": "one dog", "question": "q", "answers": ["dog"]},
        {"context": "one film", "question": "q", "answers": []},
    ]
    data = prepared(tmp_path, "question-answering", tiny_bert, rows)
    dog, film = data.encoded["train"].examples
    predictions = {
        "loss": np.zeros(3),
        "begin": np.array([0, 4, 0]),
        "end": np.array([3, 7, 3]),
        "score": np.array([1.0, 2.0, 1.0]),
        "none": np.array([9.0, 0.0, 1.5]),
    }

    assert data.task.metrics(predictions, [dog, dog, film])["exact_match"] == 1.0
    assert data.task.metrics({**predictions, "none": np.array([9.0, 9.0, 0.0])}, [dog, dog, film])["exact_match"] == 0.0


def test_a_span_never_ends_before_it_begins_nor_outside_the_context(tmp_path: Path, tiny_bert: Path):
    rows = [one_row("question-answering", index) for index in range(12)]
    data = prepared(tmp_path, "question-answering", tiny_bert, rows)
    table, model = data.encoded["train"].table, model_of(data)
    with torch.no_grad():
        found = data.task.predict(model, data.task.collate(table, np.arange(12), None))

    for row, example in enumerate(data.encoded["train"].examples):
        assert 0 <= found["begin"][row] < found["end"][row] <= len(example.text)


def test_choices_of_a_row_are_weighed_among_themselves(tmp_path: Path, tiny_bert: Path):
    rows = [one_row("multiple-choice", index) for index in range(6)]
    data = prepared(tmp_path, "multiple-choice", tiny_bert, rows)
    table, model = data.encoded["train"].table, model_of(data)
    with torch.no_grad():
        losses = data.task.predict(model, data.task.collate(table, np.arange(6), None))["loss"]
        batch = data.task.collate(table, np.array([1]), None)
        logits = model(**batch.inputs()).logits[:, 0]

    assert len(logits) == len(rows[1]["choices"]) == 3
    assert losses[1] == pytest.approx(float(-logits.log_softmax(0)[rows[1]["label"]]), rel=1e-5)


def test_half_of_the_second_parts_are_from_other_documents_drawn_anew_in_every_epoch(tmp_path: Path, tiny_bert: Path):
    rows = [{"text": f"{text(index)}. {text(index + 1)}. {text(index + 2)}."} for index in range(200)]
    data = prepared(tmp_path, "next-sentence-prediction", tiny_bert, rows)
    table, every = data.encoded["train"].table, np.arange(200)
    first, again, second, judged = (data.task.collate(table, every, epoch).tensors for epoch in (0, 0, 1, None))

    assert 0.4 < (first["labels"] == next_sentence.RANDOM).float().mean() < 0.6
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["labels"], second["labels"])
    assert not torch.equal(first["labels"], judged["labels"])
    assert float(data.task.targets(table, every, 0)[0]) == len(first["targets"])


def test_a_document_of_one_sentence_is_refused(tmp_path: Path, tiny_bert: Path):
    with pytest.raises(DataError, match=r"rows.jsonl, row 2: fewer than two sentences"):
        prepared(tmp_path, "next-sentence-prediction", tiny_bert, [{"text": "One. Two."}, {"text": "One."}])


def test_the_last_item_is_ranked_among_those_that_the_history_does_not_hold(tmp_path: Path, tiny_bert: Path):
    rows = [one_row("recommendation", index) for index in range(20)]
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps({"items": ["dog", "film", "war"]}) + "\n" + json.dumps({"items": ["dog", "new"]}) + "\n")
    data = prepared(tmp_path, "recommendation", tiny_bert, rows, data={"test": {"uri": f"file://{test}"}})
    model, table = model_of(data, pretrained=False), data.encoded["test"].table
    with torch.no_grad():
        ranks = data.task.predict(model, data.task.collate(table, np.arange(2), None))["rank"]
        number = {name: at for at, name in model.config.id2label.items()}
        scores = model(torch.tensor([[number["dog"], number["film"]]])).logits[0, -1]
    others = [at for name, at in number.items() if name not in {"", "dog", "film"}]

    assert ranks[0] == 1 + sum(float(scores[at]) > float(scores[number["war"]]) for at in others)
    assert ranks[1] == 0


@pytest.mark.parametrize(("task", "short"), [("translation", True), ("summarization", False)])
def test_scores_at_target_tokens_are_the_models_own(task: str, short: bool, tmp_path: Path, tiny: dict[str, Path]):
    """BART's head is one product, T5 scales before it: the short way is taken where it is equal."""
    data = prepared(tmp_path, task, tiny[task], [one_row(task, index) for index in range(8)])
    table, model, rows = data.encoded["train"].table, model_of(data), np.arange(8)
    batch = data.task.collate(table, rows, None)
    labels = torch.full_like(batch.tensors["decoder_input_ids"], -100)
    labels.view(-1)[batch.tensors["select"]] = batch.tensors["targets"]
    with torch.no_grad():
        mean = data.task.loss_sum(model, batch) / data.task.targets(table, rows, None)
        theirs = model(**{**batch.inputs(), "labels": labels}).loss

    assert data.task.scorer.equals_model(model, batch) is short
    assert float(mean) == pytest.approx(float(theirs), rel=1e-5)
