"""Tasks whose loss compares rows with each other or with the untrained model: embeddings and preferences."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune_trainer.coupling import introduce
from finetune_trainer.distributed import Group
from finetune_trainer.errors import DataError
from support.tiny import manifest, model_of, one_row, prepared, run_config, train, write_rows


def test_the_gradient_in_passes_is_that_of_all_pairs_at_once(tmp_path: Path, tiny_bert: Path):
    data = prepared(tmp_path, "embedding", tiny_bert, [one_row("embedding", index) for index in range(12)])
    table, model = data.encoded["train"].table, model_of(data)
    batches = [data.task.collate(table, rows, 0) for rows in np.array_split(np.arange(12), 5)]

    def gradient() -> torch.Tensor:
        found = torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])
        model.zero_grad()
        return found

    vectors = torch.cat([data.task.embed(model, batch) for batch in batches])
    scores = 20.0 * vectors[:, 0] @ vectors[:, 1].T
    whole = torch.nn.functional.cross_entropy(scores, torch.arange(12), reduction="sum")
    whole.backward()
    expected, loss = gradient(), 0.0
    alone = Group(0, 1, torch.device("cpu"))
    for batch in introduce(data.task, model, batches, alone, lambda _: nullcontext()):
        part = data.task.loss_sum(model, batch)
        part.backward()
        loss += float(part.detach())

    assert loss == pytest.approx(float(whole.detach()), rel=1e-5)
    assert (gradient() - expected).norm() <= 1e-4 * expected.norm()


def test_passes_with_dropout_see_the_embeddings_that_were_gathered(tmp_path: Path, tiny_bert: Path):
    data = prepared(tmp_path, "embedding", tiny_bert, [one_row("embedding", index) for index in range(6)])
    model = model_of(data).train()
    batches = [data.task.collate(data.encoded["train"].table, rows, 0) for rows in np.array_split(np.arange(6), 3)]

    def begin_pass(number: int) -> Any:
        torch.manual_seed(number)
        return nullcontext()

    found = introduce(data.task, model, batches, Group(0, 1, torch.device("cpu")), begin_pass)
    for number, batch in enumerate(found):
        begin_pass(number)
        again = data.task.embed(model, batch)

        assert torch.equal(again, batch.tensors["everyone"][batch.tensors["place"]])


def test_scores_of_pairs_are_learned_as_cosines_and_judged_by_rank(tmp_path: Path, tiny_bert: Path):
    rows = [one_row("embedding", index) | {"score": index % 5} for index in range(10)]
    data = prepared(tmp_path, "embedding", tiny_bert, rows)
    table, model = data.encoded["train"].table, model_of(data)
    with torch.no_grad():
        found = data.task.predict(model, data.task.collate(table, np.arange(10), None))

    assert data.task.metric_names == ("loss", "spearman", "pearson")
    assert sorted(set(found["score"])) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert set(data.task.metrics(found, data.encoded["train"].examples)) == set(data.task.metric_names)


def test_the_right_text_is_searched_among_all_of_the_set(tmp_path: Path, tiny_bert: Path):
    data = prepared(tmp_path, "embedding", tiny_bert, [one_row("embedding", index) for index in range(8)])
    vectors = np.eye(8, dtype=np.float32)
    right = data.task.metrics({"first": vectors, "second": vectors, "score": np.ones(8)}, [])
    wrong = data.task.metrics({"first": vectors, "second": np.roll(vectors, 1, axis=0), "score": np.ones(8)}, [])

    assert right["recall_at_1"] == 1.0
    assert wrong["recall_at_1"] == 0.0
    assert right["loss"] < 1e-6 < wrong["loss"]


def test_dpo_is_its_formula_on_the_models_own_scores_and_starts_at_log_two(tmp_path: Path, tiny_llama: Path):
    data = prepared(tmp_path, "preference", tiny_llama, [one_row("preference", index) for index in range(6)])
    table, model, rows = data.encoded["train"].table, model_of(data), np.arange(6)
    batch = data.task.collate(table, rows, None)
    with torch.no_grad():
        scores = model(batch.tensors["input_ids"]).logits.log_softmax(-1).flatten(0, 1)
        chosen = scores[batch.tensors["select"], batch.tensors["targets"]]
        total = torch.zeros(12).index_add(0, batch.tensors["owner"], chosen)
        expected = -torch.nn.functional.logsigmoid(0.1 * (total[:6] - total[6:])).sum()
        reference = data.task.refer(model, batch)
        known = replace(table, dense={**table.dense, **reference})
        untrained = data.task.loss_sum(model, data.task.collate(known, rows, None))

        assert float(data.task.loss_sum(model, batch)) == pytest.approx(float(expected), rel=1e-5)
    assert np.allclose(reference["reference"], total.unflatten(0, (2, 6)).T, atol=1e-4)
    assert float(untrained) == pytest.approx(6 * np.log(2.0), rel=1e-4)


def test_the_reference_of_a_resumed_run_is_the_untrained_model(tmp_path: Path, tiny_llama: Path):
    """The first step's loss is log 2 for every row, and the test set is judged against the same reference."""
    rows = write_rows(tmp_path, "preference")
    training = {"maxSteps": 6, "learningRate": 0.003, "precision": "fp32"}
    document = manifest("preference", tiny_llama, rows, training=training, data={"test": {"fraction": 0.25}})
    done = train(run_config(tmp_path, document))
    events = [json.loads(line) for line in (tmp_path / "work/events.jsonl").read_text().splitlines()]
    losses = [event["data"]["loss"] for event in events if event["kind"] == "progress"]

    assert losses[0] == pytest.approx(np.log(2.0), rel=1e-3)
    assert done.metrics["test/accuracy"] > 0.8
    assert done.metrics["test/margin"] > 0


def test_completions_that_are_the_same_are_named(tmp_path: Path, tiny_llama: Path):
    row = {"prompt": "a", "chosen": "b", "rejected": "b"}

    with pytest.raises(DataError, match=r"rows.jsonl, row 1: columns 'chosen' and 'rejected' hold the same"):
        prepared(tmp_path, "preference", tiny_llama, [row])


def test_conversations_may_share_their_beginning_in_a_column_of_its_own(tmp_path: Path, tiny_llama: Path):
    def said(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    opening, good, bad = [said("user", "dog")], [said("assistant", "yes")], [said("assistant", "no")]
    apart = {"prompt": opening, "chosen": good, "rejected": bad}
    whole = {"chosen": opening + good, "rejected": opening + bad}
    tables = [
        prepared(tmp_path, "preference", tiny_llama, [row]).encoded["train"].table.ragged["input_ids"].tolist()
        for row in (apart, whole)
    ]

    assert tables[0] == tables[1]
