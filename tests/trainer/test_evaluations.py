"""What is kept and told of an evaluation: every judged row once, a page for people, and no set judged twice."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from finetune_trainer import evaluating
from finetune_trainer.errors import ConfigError, DataError, GateFailed
from finetune_trainer.evaluate import Found, Judge
from finetune_trainer.intervals import intervals
from finetune_trainer.judged import judged_rows
from finetune_trainer.report.drawing import curves, matrix
from finetune_trainer.report.pictures import spectrogram
from support.tiny import manifest, model_of, one_row, prepared, run_config, train, write_rows


def events_of(work: Path, kind: str) -> list[dict[str, Any]]:
    lines = (work / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


class Page(HTMLParser):
    """The texts of a page by the id of the element around them, its tags, and every address in it."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, str | None]] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.texts: dict[str | None, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "data", "action"}]
        if tag not in self.VOID:
            self.open.append((tag, found.get("id")))

    def handle_startendtag(self, tag: str, _: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        name = next((each for _, each in reversed(self.open) if each), None)
        if data.strip():
            self.texts.setdefault(name, []).append(data.strip())


@pytest.mark.parametrize(
    ("training", "judged"),
    [
        ({}, 2),
        ({"average": 0.5}, 2),
        # The learning rate lets the loss only rise: the first of three is the best, and is judged again.
        ({"maxSteps": 6, "learningRate": 1.0, "optimizer": "sgd", "earlyStopping": {"patience": 9}}, 4),
    ],
)
def test_rows_are_judged_again_at_the_end_only_by_other_weights(
    training: dict[str, Any], judged: int, tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
):
    count = 0
    judge = Judge.judge

    def counting(self: Judge, *arguments: Any) -> Found:
        nonlocal count
        count += 1
        return judge(self, *arguments)

    monkeypatch.setattr(Judge, "judge", counting)
    rows = write_rows(tmp_path, "text-classification")
    document = manifest(
        "text-classification",
        tiny_bert,
        rows,
        training=training,
        data={"validation": {"fraction": 0.25}},
        evaluation={"every": "2steps"},
    )
    done = train(run_config(tmp_path, document))
    told = events_of(tmp_path / "work", "evaluation")

    assert count == len(told) == judged
    if "earlyStopping" in training:
        best = min(each["data"]["metrics"]["loss"] for each in told[:-1])
        assert done.metrics["validation/loss"] == best < told[-2]["data"]["metrics"]["loss"]
    else:
        assert done.metrics["validation/loss"] == told[-1]["data"]["metrics"]["loss"]


@pytest.mark.parametrize(
    "task", ["text-classification", "image-classification", "audio-classification", "summarization"]
)
def test_a_report_is_one_well_formed_file_that_reaches_for_nothing_and_shows_the_rows(
    task: str, tmp_path: Path, tiny: dict[str, Path]
):
    rows = write_rows(tmp_path, task, 64)
    document = manifest(task, tiny[task], rows, data={"validation": {"fraction": 0.25}}, evaluation={"every": "2steps"})
    done = train(run_config(tmp_path, document))
    text = (tmp_path / "artifact/evaluation/report.html").read_text()
    page = Page(text)

    assert done.report == str(tmp_path / "artifact/evaluation/report.html")
    assert page.open == []
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert "http" not in re.sub(r'xmlns="[^"]*"|http-equiv', "", text)
    assert "svg" in page.tags
    assert f"{done.metrics['validation/loss']:.4f}" in page.texts["metrics"]
    assert len(text) < 300_000
    shown = {"image-classification": "images", "audio-classification": "sounds", "summarization": "samples"}
    assert shown.get(task, "worst") in page.texts
    if "classification" in task:
        kept = pq.read_table(tmp_path / "artifact/evaluation/validation/predictions.parquet").to_pylist()
        numbers = [int(each) for each in page.texts["matrix"] if each.isdigit()]
        assert sum(numbers) == len(kept) == 16
        assert numbers[0] + numbers[3] == sum(each["right"] for each in kept)


def test_what_rows_hold_is_text_in_a_report_and_never_its_markup(tmp_path: Path, tiny_bert: Path):
    hostile = "<script>alert(1)</script><img src=http://x>"
    labels = ("</table><b>", "b")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": hostile, "label": labels[at % 2]}) + "\n" for at in range(40)))
    train(
        run_config(tmp_path, manifest("text-classification", tiny_bert, path, data={"validation": {"fraction": 0.5}}))
    )
    page = Page((tmp_path / "work/evaluation/report.html").read_text())

    assert not {"script", "img", "b"} & set(page.tags)
    assert page.open == []
    assert any("<script>alert(1)</script>" in each for each in page.texts["worst"])


def test_a_run_whose_gate_fails_leaves_its_report_in_the_work_folder(tmp_path: Path, tiny_bert: Path):
    from finetune_trainer import run
    from finetune_trainer.stopping import StopFlag

    rows = write_rows(tmp_path, "text-classification")
    document = manifest(
        "text-classification",
        tiny_bert,
        rows,
        data={"validation": {"fraction": 0.25}},
        evaluation={"gate": {"metric": "accuracy", "minimum": 1.5}},
    )
    progress = run.Progress()

    with pytest.raises(GateFailed):
        run.train(run_config(tmp_path, document), run.Rank(), StopFlag(), progress)

    assert progress.report == str(tmp_path / "work/evaluation/report.html")
    assert Path(progress.report).exists()
    assert not (tmp_path / "artifact").exists()


@pytest.mark.parametrize(
    ("task", "given", "right"),
    [
        ("text-classification", "the film is", "good"),
        ("token-classification", "film", "-W)"),
        ("multiple-choice", "\n0: the\n1: film", "film"),
        ("recommendation", ", ", None),
        ("question-answering", "what is it", None),
        ("causal-lm", "user: ", "no"),
        ("preference", "a long", "no"),
    ],
)
def test_a_row_is_told_with_what_the_model_is_given_and_what_is_right(
    task: str, given: str, right: str | None, tmp_path: Path, tiny: dict[str, Path]
):
    rows = [one_row(task, index) for index in range(24)]
    data = prepared(tmp_path, task, tiny[task], rows)
    encoded = data.encoded["train"]
    from finetune_trainer.distributed import join_group
    from finetune_trainer.runtime import autocast
    from finetune_trainer.stopping import StopFlag

    group = join_group(0, 0, 1, 0.0)
    judge = Judge(data.task, group, autocast(group.device, "fp32"), StopFlag(), lambda: None)
    found = judge.judge(model_of(data, pretrained=task != "recommendation"), encoded)
    told = judged_rows(data.task, found)

    assert [each.example.row.number for each in told] == list(range(1, 25))
    assert any(given in each.input for each in told)
    assert right is None or any(right in each.expected for each in told)
    assert not any(each.expected and each.expected in each.input.split("\n") for each in told)
    if "accuracy" in found.metrics and task != "token-classification":
        assert sum(each.right is True for each in told) / len(told) == pytest.approx(found.metrics["accuracy"])
    if "exact_match" in found.metrics:
        assert sum(each.right is True for each in told) / len(told) == pytest.approx(found.metrics["exact_match"])
    if task in {"text-classification", "multiple-choice", "preference"}:
        assert np.mean([each.loss for each in told]) == pytest.approx(found.metrics["loss"], rel=1e-5)


class Halves:
    """A task whose metric is a mean of ones and zeros, some of which belong to one example."""

    name = "halves"

    def metrics(self, predictions: Any, examples: Any) -> dict[str, float]:
        by_example: dict[int, list[int]] = {}
        for at, example in enumerate(examples):
            by_example.setdefault(id(example), []).append(at)
        best = [max(predictions["right"][at] for at in rows) for rows in by_example.values()]
        return {"accuracy": float(np.mean(best)), "examples": float(len(best))}


def test_a_bootstrap_interval_is_that_of_the_binomial_and_draws_whole_examples():
    from finetune_trainer.data.formats import Row
    from finetune_trainer.data.schema import Example

    examples = [Example(Row("f", at, {})) for at in range(400)]
    twice = [examples[at // 2] for at in range(800)]
    right = np.array([at % 2 == 0 and at % 8 == 0 for at in range(800)], dtype=float)

    found, _ = intervals(Halves(), Found(twice, {"right": right}, {}), 7)  # type: ignore[arg-type]

    low, high = found["accuracy"]
    spread = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert (low, high) == (pytest.approx(0.25 - spread, abs=0.012), pytest.approx(0.25 + spread, abs=0.012))
    assert found["examples"] == (400.0, 400.0)


def test_curves_stay_small_and_leave_out_what_is_not_finite():
    drawn = curves({"loss": [(float(at), 1.0 / (at + 1)) for at in range(100_000)] + [(1e6, float("nan"))]}, "step")

    assert drawn.count(",") <= 401
    assert "nan" not in drawn
    assert curves({"loss": [(0.0, 1.0)]}, "step") == ""


def test_a_matrix_counts_each_pair_in_the_row_of_what_is_right():
    found = matrix([("2", "10"), ("2", "2"), ("10", "10"), ("2", "10")])
    assert found is not None
    assert list(found.labels) == ["2", "10"]
    assert [[count for count, _ in cells] for _, cells in found.rows] == [[1, 2], [0, 1]]


def test_a_spectrogram_shows_a_tone_at_its_pitch():
    rate_hz = 8000
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate_hz) / rate_hz).astype(np.float32)
    shade = spectrogram(tone).sum(axis=2)

    loudest = np.bincount(shade[:, 5:-5].argmax(axis=0)).argmax()
    assert shade.shape[0] == 128
    assert loudest == pytest.approx(127 - 1000 / (rate_hz / 2) * 128, abs=2)


@pytest.mark.parametrize("method", ["full", "lora", "adalora", "top-layers"])
def test_no_epochs_judge_the_untouched_model_and_end_complete(method: str, tmp_path: Path, tiny_bert: Path):
    rows = write_rows(tmp_path, "masked-lm")
    document = manifest(
        "masked-lm",
        tiny_bert,
        rows,
        method={"type": method},
        data={"test": {"fraction": 0.25}},
        evaluation={"gate": {"metric": "loss", "betterThanBase": 0}},
    )
    document["spec"]["training"] = {"epochs": 0}
    done = train(run_config(tmp_path, document))
    judged = {each["data"]["split"]: each["data"]["metrics"] for each in events_of(tmp_path / "work", "evaluation")}

    assert (done.outcome, done.step, done.max_steps) == ("Complete", 0, 0)
    assert judged["test"] == judged["base"]
    assert not events_of(tmp_path / "work", "progress")


def test_an_artifact_refuses_rows_whose_label_it_never_saw_and_metrics_that_the_task_lacks(
    tmp_path: Path, tiny_bert: Path
):
    train(run_config(tmp_path, manifest("text-classification", tiny_bert, write_rows(tmp_path, "text-classification"))))
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "a dog", "label": "good"}\n{"text": "a dog", "label": "so so"}\n')
    request = evaluating.Request(tmp_path / "artifact", other, (), tmp_path / "judged", None, tmp_path)

    with pytest.raises(DataError, match=r"^other.jsonl, row 2: 'so so' is not among"):
        evaluating.evaluate(request)
    with pytest.raises(ConfigError, match="--metric: text-classification has no metric 'bleu'"):
        evaluating.evaluate(replace(request, metrics=("bleu",)))
    assert not (tmp_path / "judged").exists()
