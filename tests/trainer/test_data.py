import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.data.formats import MAX_TEXT_BYTES, Row, read_rows
from finetune_trainer.data.packing import pack
from finetune_trainer.data.sampler import Sampler, split_batch
from finetune_trainer.data.schema import Example, to_examples
from finetune_trainer.data.split import draw_shots, hold_out
from finetune_trainer.errors import DataError, ModelNotFound, TrainerError
from finetune_trainer.inspect_job import show_data
from finetune_trainer.preparation import prepare_data
from finetune_trainer.tasks import metrics, text_classification
from support.tiny import manifest, minilm_folder, run_config, write_rows

LINE = json.dumps({"text": "a fine film", "label": "good"}) + "\n"
OTHER = json.dumps({"text": "a dull film", "label": "bad"}) + "\n"


def fault(folder: Path, model: Path, name: str, content: bytes, **data: object) -> TrainerError:
    path = folder / name
    path.write_bytes(content)
    with pytest.raises(TrainerError) as caught:
        prepare_data(run_config(folder, manifest("text-classification", model, path, data=data)))
    assert caught.value.remedy
    return caught.value


def test_an_empty_file_is_named(tmp_path: Path, tiny_bert: Path):
    assert "train.jsonl: the file has no rows" in fault(tmp_path, tiny_bert, "train.jsonl", b"").message


def test_a_wrong_column_is_named_with_those_that_exist(tmp_path: Path, tiny_bert: Path):
    error = fault(tmp_path, tiny_bert, "train.jsonl", LINE.encode(), fields={"label": "mood"})

    assert "'mood'" in error.message
    assert "'label'" in error.message


def test_one_bad_row_among_many_is_named_by_its_number(tmp_path: Path, tiny_bert: Path):
    rows = [LINE, OTHER] * 10_000
    rows[12_344] = '{"text": "no label"}\n'
    error = fault(tmp_path, tiny_bert, "train.jsonl", "".join(rows).encode())

    assert error.message.startswith("train.jsonl, row 12345: column 'label'")


def test_broken_json_is_named_by_its_row(tmp_path: Path, tiny_bert: Path):
    assert (
        "train.jsonl, row 2: no valid JSON"
        in fault(tmp_path, tiny_bert, "train.jsonl", (LINE + '{"text": \n').encode()).message
    )


def test_a_wrong_encoding_is_named_with_row_and_byte(tmp_path: Path, tiny_bert: Path):
    content = b"text,label\nfine,good\n" + "caf\u00e9,bad\n".encode("latin-1")

    assert "train.csv, row 3: byte 3 is not UTF-8" in fault(tmp_path, tiny_bert, "train.csv", content).message


def test_a_csv_row_with_a_missing_cell_is_named(tmp_path: Path, tiny_bert: Path):
    error = fault(tmp_path, tiny_bert, "train.csv", b"text,label\nfine,good\nalone\n")

    assert "train.csv, row 2: fewer cells" in error.message


def test_a_truncated_parquet_file_is_named(tmp_path: Path, tiny_bert: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table({"text": ["a"] * 1000, "label": ["x"] * 1000}), whole)
    error = fault(tmp_path, tiny_bert, "train.parquet", whole.read_bytes()[:-200])

    assert "train.parquet, row 1: damaged parquet" in error.message


def test_a_label_that_training_never_sees_is_named_by_its_row(tmp_path: Path, tiny_bert: Path):
    (tmp_path / "test.jsonl").write_text(LINE + json.dumps({"text": "hm", "label": "mixed"}) + "\n")
    test = {"uri": f"file://{tmp_path / 'test.jsonl'}"}
    error = fault(tmp_path, tiny_bert, "train.jsonl", (LINE + OTHER).encode(), test=test)

    assert error.message.startswith("test.jsonl, row 2: the label 'mixed'")


def test_a_hostile_label_is_kept_as_it_is_and_escaped_where_it_is_told(tmp_path: Path, tiny_bert: Path):
    hostile = ["\x1b[2J", "$(HOME)", "a\u202eb", "../../etc", "{{ x }}"]
    lines = "".join(json.dumps({"text": "fine", "label": label}) + "\n" for label in hostile)
    path = tmp_path / "train.jsonl"
    path.write_text(lines)
    config = run_config(tmp_path, manifest("text-classification", tiny_bert, path))
    told = show_data(config)["samples"]

    assert sorted(prepare_data(config).task.head.config["label2id"]) == sorted(hostile)
    assert [sample["label"] for sample in told] == ["\\x1b[2J", "$(HOME)", "a\\u202eb", "../../etc", "{{ x }}"]
    message = fault(tmp_path, tiny_bert, "train.jsonl", lines.splitlines(keepends=True)[0].encode()).message
    assert message == "the training rows hold 1 label (\\x1b[2J), at least two are needed"


def test_a_split_without_any_label_is_named_by_its_row(tmp_path: Path, tiny_bert: Path):
    (tmp_path / "test.jsonl").write_text('{"text": "hm", "label": null}\n{"text": "ho", "label": ""}\n')
    test = {"uri": f"file://{tmp_path / 'test.jsonl'}"}
    error = fault(tmp_path, tiny_bert, "train.jsonl", (LINE + OTHER).encode(), test=test)

    assert error.message.startswith("test.jsonl, row 1: ")


def test_one_label_alone_is_refused(tmp_path: Path, tiny_bert: Path):
    assert "hold 1 label (good)" in fault(tmp_path, tiny_bert, "train.jsonl", (LINE * 3).encode()).message


def test_a_text_of_ten_megabytes_is_named_by_its_row(tmp_path: Path, tiny_bert: Path):
    huge = json.dumps({"text": "x" * 5 * MAX_TEXT_BYTES, "label": "good"}) + "\n"

    assert (
        "train.jsonl, row 2: column 'text' holds a text of"
        in fault(tmp_path, tiny_bert, "train.jsonl", (LINE + huge).encode()).message
    )


def test_a_missing_file_is_named(tmp_path: Path, tiny_bert: Path):
    with pytest.raises(DataError, match=r"nowhere.jsonl: there is no such file"):
        prepare_data(run_config(tmp_path, manifest("text-classification", tiny_bert, tmp_path / "nowhere.jsonl")))


def test_no_metric_of_that_name_is_said_before_the_model_is_loaded(tmp_path: Path, tiny_bert: Path):
    rows = write_rows(tmp_path, "text-classification")
    gate = {"gate": {"metric": "bleu", "minimum": 1.0}}
    document = manifest("text-classification", tiny_bert, rows, data={"test": {"fraction": 0.2}}, evaluation=gate)

    with pytest.raises(TrainerError, match="no metric 'bleu'"):
        prepare_data(run_config(tmp_path, document))


def test_conversations_whose_answer_is_cut_off_are_refused_beyond_five_percent(tmp_path: Path, tiny_llama: Path):
    rows = write_rows(tmp_path, "causal-lm")

    with pytest.raises(DataError, match=r"rows cannot be used \(causal-lm.jsonl, row \d+: no learned token"):
        prepare_data(run_config(tmp_path, manifest("causal-lm", tiny_llama, rows, data={"maxLength": 8})))


def test_only_the_assistants_words_are_learned(tmp_path: Path, tiny_llama: Path):
    found = prepare_data(run_config(tmp_path, manifest("causal-lm", tiny_llama, write_rows(tmp_path, "causal-lm"))))
    pieces = found.task.pieces(found.encoded["train"].table, 0, found.processor)

    assert [piece.supervised for piece in pieces] == [False, True]
    assert pieces[1].text.replace(" ", "") == "yesitis[SEP]"


@pytest.mark.parametrize("source", ["missing", "pickled", "damaged", "wrong-architecture"])
def test_a_model_that_cannot_be_used_is_refused_with_a_remedy(tmp_path: Path, tiny_bert: Path, source: str):
    from finetune_trainer.models import load_model
    from finetune_trainer.sources import Places, locate_model
    from finetune_trainer.tasks.base import HeadSpec

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny_bert / "config.json").read_bytes())
    if source == "pickled":
        (folder / "pytorch_model.bin").write_bytes(b"pickle")
    elif source == "damaged":
        (folder / "model.safetensors").write_bytes((tiny_bert / "model.safetensors").read_bytes()[:-1000])
    elif source == "wrong-architecture":
        (folder / "model.safetensors").write_bytes((tiny_bert / "model.safetensors").read_bytes())
        (folder / "config.json").write_text('{"model_type": "vit"}')
    where = "nowhere" if source == "missing" else "model"

    with pytest.raises(ModelNotFound) as caught:
        load_model(
            locate_model(f"file://{where}", Places(tmp_path, tmp_path)),
            HeadSpec("sequence-classification", {"num_labels": 2}),
            pretrained=True,
        )

    assert caught.value.remedy


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=200),
    st.integers(1, 40),
    st.integers(1, 16),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_every_row_is_trained_on_once_per_epoch_for_any_micro_batch_and_world(
    lengths: list[int], batch: int, micro: int, world: int, seed: int
):
    array = np.array(lengths)
    sampler = Sampler(array, batch, seed)
    seen: Counter[int] = Counter()
    for step in range(sampler.steps_per_epoch):
        for passes in split_batch(sampler.batch(step), array, micro, world):
            assert all(0 < len(rows) <= micro for rows in passes)
            seen.update(int(row) for rows in passes for row in rows)

    assert seen == Counter(range(len(lengths)))


def test_the_order_changes_with_the_epoch_and_the_seed_alone():
    lengths = np.arange(1, 101)
    first = [Sampler(lengths, 10, 1).batch(step).tolist() for step in range(20)]

    assert first == [Sampler(lengths, 10, 1).batch(step).tolist() for step in range(20)]
    assert first[:10] != first[10:]
    assert first != [Sampler(lengths, 10, 2).batch(step).tolist() for step in range(20)]


@given(st.lists(st.integers(1, 64), min_size=1, max_size=100))
def test_packing_places_every_row_once_and_never_overfills(lengths: list[int]):
    sequences = pack(lengths, 64)

    assert sorted(index for members in sequences for index in members) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in members) <= 64 for members in sequences)


@given(st.integers(10, 200), st.floats(0.1, 0.5), st.integers(0, 5))
def test_held_out_rows_are_stratified_and_never_trained_on(count: int, fraction: float, seed: int):
    from finetune_trainer.data.formats import Row

    rows = [Row("f", i, {"text": "t", "label": ("a", "b")[i % 2]}) for i in range(count)]
    held, rest = hold_out(to_examples(rows, text_classification.read, {}), fraction, (seed, 1))

    assert len(held) + len(rest) == count
    assert abs(len(held) - fraction * count) <= 1
    shares = Counter(example.label for example in held)
    assert abs(shares["a"] - shares["b"]) <= 2


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 6), st.integers(5, 60), st.integers(0, 1000))
def test_metrics_are_scikit_learns(classes: int, rows: int, seed: int):
    from sklearn import metrics as sk

    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=(rows, classes)), rng.integers(classes, size=rows)
    ours, told = metrics.single_label(scores, labels), scores.argmax(1)
    truth, number = rng.normal(size=rows), rng.normal(size=rows)
    many = (rng.random((rows, classes)) < 0.4).astype(float)

    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(labels, told))
    for name, function in (("f1", sk.f1_score), ("precision", sk.precision_score), ("recall", sk.recall_score)):
        assert ours[name] == pytest.approx(function(labels, told, average="macro", zero_division=0.0))
        assert metrics.multi_label(scores, many)[name] == pytest.approx(
            function(many, scores > 0, average="micro", zero_division=0.0)
        )
    assert metrics.regression(number, truth)["r2"] == pytest.approx(sk.r2_score(truth, number))
    assert metrics.regression(number, truth)["mae"] == pytest.approx(sk.mean_absolute_error(truth, number))


def test_our_tokenizer_gives_the_ids_of_transformers():
    from transformers import AutoTokenizer

    from finetune_trainer.data.tokenizer import load_tokenizer

    rng = random.Random(0)
    texts = ["".join(rng.choice("abc XYZ,.!?\u00e9\u4e2d\U0001f600\n") for _ in range(40)) for _ in range(50)]
    theirs = AutoTokenizer.from_pretrained(str(minilm_folder()))(texts, truncation=True, max_length=32)["input_ids"]

    assert [each.ids for each in load_tokenizer(minilm_folder()).encode(texts, 32)] == theirs


def test_multi_label_and_pairs_are_detected(tmp_path: Path, tiny_bert: Path):
    rows = [{"sentence1": "a", "sentence2": "b", "labels": labels} for labels in (["x"], ["x", "y"], [])]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = prepare_data(run_config(tmp_path, manifest("text-classification", tiny_bert, path)))

    assert found.encoded["train"].table.dense["labels"].tolist() == [[1, 0], [1, 1], [0, 0]]
    assert "token_type_ids" in found.encoded["train"].table.ragged


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path):
    (tmp_path / "b.jsonl").write_text(OTHER)
    (tmp_path / "a.jsonl").write_text(LINE)

    assert [row.file for row in read_rows(tmp_path)] == ["a.jsonl", "b.jsonl"]


def test_shots_are_drawn_of_each_label_seeded_and_fewer_are_some_of_more():
    rows = [Example(Row("f", at, {}), label=("rare" if at % 50 == 0 else "often")) for at in range(200)]
    few, same, other, more = (draw_shots(rows, count, (seed, 3)) for count, seed in ((3, 1), (3, 1), (3, 2), (20, 1)))
    counts = Counter(each.label for each in more)
    unlabelled = [Example(Row("f", at, {}), label=at / 2) for at in range(50)]
    choices = [Example(Row("f", at, {}), label=str(at % 2), parts=("a", "b")) for at in range(50)]

    assert few == same != other
    assert {each.row.number for each in few} < {each.row.number for each in more}
    assert Counter(each.label for each in few) == {"rare": 3, "often": 3}
    assert counts == {"rare": 4, "often": 20}
    assert [each.row.number for each in more] == sorted(each.row.number for each in more)
    assert len(draw_shots(unlabelled, 3, (1, 3))) == len(draw_shots(choices, 3, (1, 3))) == 3


@pytest.mark.parametrize("task", ["text-classification", "image-classification"])
def test_shots_leave_held_out_rows_as_they_are_and_are_told(task: str, tmp_path: Path, tiny: dict[str, Path]):
    rows = write_rows(tmp_path, task)
    test = {"test": {"fraction": 0.25}}
    few = prepare_data(run_config(tmp_path, manifest(task, tiny[task], rows, data={**test, "shots": 2})))
    all_rows = prepare_data(run_config(tmp_path, manifest(task, tiny[task], rows, data=test)))

    assert [each.place for each in few.splits.test] == [each.place for each in all_rows.splits.test]
    assert len(few.encoded["train"].table) == 4
    assert few.splits.pool == len(all_rows.splits.train) == 36
    assert ("shots", "4 of 36 rows") in [(each.name, each.value) for each in few.decisions]
