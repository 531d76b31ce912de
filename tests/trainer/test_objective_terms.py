"""Distillation and R-Drop against torch and formulas written out, and what they refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from finetune_trainer.building import build_model, prove
from finetune_trainer.errors import ConfigError
from finetune_trainer.objectives.distillation import Distilled
from finetune_trainer.objectives.divergence import divergences, symmetric
from finetune_trainer.objectives.rdrop import RDrop
from finetune_trainer.preparation import prepare_data
from finetune_trainer.reporting import Reporter
from finetune_trainer.sources import places_of
from finetune_trainer.tasks import scoring
from finetune_trainer.teaching import load_teacher
from support.teachers import TEACHERS, save_teacher
from support.tiny import manifest, model_of, run_config, write_rows

ROWS = np.arange(6)
HERE = torch.device("cpu")


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


class Case:
    """A task with a student and a teacher, both in evaluation mode."""

    def __init__(self, task: str, folder: Path, model: Path, /, **training: Any) -> None:
        self.config = run_config(folder, manifest(task, model, write_rows(folder, task), training=training))
        self.data = prepare_data(self.config)
        self.task, self.student = self.data.task, model_of(self.data)
        self.teacher = load_teacher(
            f"file://{save_teacher(folder / 'teacher', task)}", self.data, places_of(self.config)
        )
        self.batch = self.task.collate(self.data.encoded["train"].table, ROWS, 0)


def test_divergences_are_those_of_torchs_distributions():
    one, other = randn(7, 4), 2 * randn(4, 7).T
    p, q = (torch.distributions.Categorical(logits=each) for each in (one, other))
    assert torch.allclose(divergences("one", one, other), torch.distributions.kl_divergence(p, q))
    assert torch.allclose(symmetric("one", one, other), symmetric("one", other, one))

    p, q = (torch.distributions.Bernoulli(logits=each) for each in (one, other))
    assert torch.allclose(divergences("any", one, other), torch.distributions.kl_divergence(p, q).sum(dim=-1))
    assert torch.allclose(divergences("number", one[:, :1], other[:, :1]), ((one - other)[:, 0]) ** 2)


@pytest.mark.parametrize("task", TEACHERS)
def test_a_distilled_loss_is_the_sum_of_its_parts_written_out(task: str, tmp_path: Path, tiny: dict[str, Path]):
    case = Case(task, tmp_path, tiny[task])
    own = case.task.loss_sum(case.student, case.batch)
    with torch.no_grad():
        mine, theirs = (full_scores(model, case) for model in (case.student, case.teacher))
    if task == "text-regression":
        apart = F.mse_loss(mine, theirs, reduction="sum")
    else:
        soft = F.log_softmax(mine / 3.0, dim=-1), F.softmax(theirs / 3.0, dim=-1)
        apart = F.kl_div(*soft, reduction="batchmean") * len(mine) * 9.0
    temperature = 1.0 if task == "text-regression" else 3.0

    found = Distilled(case.task, case.teacher, 0.7, temperature).loss_sum(case.student, case.batch)

    assert float(apart) > 1e-4
    assert torch.allclose(found, 0.3 * own + 0.7 * apart, rtol=1e-4)


def full_scores(model: Any, case: Case) -> torch.Tensor:
    """What transformers' own forward says of the supervised elements."""
    logits = model(**case.batch.inputs()).logits
    return logits.flatten(0, 1)[case.batch.tensors["select"]] if "select" in case.batch.tensors else logits


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_a_teachers_gradient_reaches_the_student_alone(weight: float, tmp_path: Path, tiny_bert: Path):
    case = Case("text-classification", tmp_path, tiny_bert)
    Distilled(case.task, case.teacher.train(), weight, 2.0).loss_sum(case.student, case.batch).backward()

    assert not case.teacher.training
    assert all(each.grad is None for each in case.teacher.parameters())
    assert any(each.grad is not None for each in case.student.parameters())


def test_chunks_of_a_large_vocabulary_give_the_loss_and_gradient_of_the_whole(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
):
    case = Case("causal-lm", tmp_path, tiny_llama)
    term = RDrop(Distilled(case.task, case.teacher, 0.5, 2.0), 1.5)

    def gradient() -> torch.Tensor:
        case.student.zero_grad()
        term.loss_sum(case.student, case.batch).backward()
        return torch.cat([each.grad.flatten() for each in case.student.parameters() if each.grad is not None])

    whole = gradient()
    monkeypatch.setattr(scoring, "_CHUNK_ELEMENTS", 5 * 2 * 30522)
    assert torch.allclose(whole, gradient(), rtol=1e-4, atol=1e-6)


def test_two_passes_that_differ_cost_their_mean_loss_and_the_divergence_between_them(tmp_path: Path, tiny_bert: Path):
    case = Case("text-classification", tmp_path, tiny_bert)
    case.student.train()
    labels = case.batch.tensors["labels"]
    torch.manual_seed(7)
    one, other = (case.task.scored(case.student, case.batch).hidden.detach() for _ in range(2))
    p, q = F.softmax(one, dim=-1), F.softmax(other, dim=-1)
    apart = 0.5 * ((p * (p / q).log()).sum() + (q * (q / p).log()).sum())
    own = 0.5 * sum(F.cross_entropy(each, labels, reduction="sum") for each in (one, other))

    torch.manual_seed(7)
    found = RDrop(case.task, 4.0).loss_sum(case.student, case.batch)

    assert float(apart) > 1e-6
    assert torch.allclose(found, own + 4.0 * apart, rtol=1e-4)


def test_a_rare_class_that_counts_more_counts_more_in_the_divergence_too(tmp_path: Path, tiny_bert: Path):
    case = Case("text-classification", tmp_path, tiny_bert, classWeights={"good": 5.0})
    weights = torch.tensor([1.0, 5.0])[case.batch.tensors["labels"]]
    with torch.no_grad():
        mine, theirs = (full_scores(model, case) for model in (case.student, case.teacher))

    found = Distilled(case.task, case.teacher, 1.0, 1.0).loss_sum(case.student, case.batch)
    assert torch.allclose(found, (weights * divergences("one", theirs, mine)).sum(), rtol=1e-4)


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def rename_labels(folder: Path) -> None:
    change_config(folder, id2label={"0": "ham", "1": "spam"})


def shorten(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"].pop("dull")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("change", "told"),
    [(rename_labels, r"labels ham, spam \(2\), the training rows bad, good \(2\)"), (shorten, "another vocabulary")],
)
def test_a_teacher_that_says_other_things_is_refused(
    change: Callable[[Path], None], told: str, tmp_path: Path, tiny_bert: Path
):
    case = Case("text-classification", tmp_path, tiny_bert)
    change(tmp_path / "teacher")

    with pytest.raises(ConfigError, match=told):
        load_teacher("file://teacher", case.data, places_of(case.config))


def test_a_teacher_without_a_trained_head_is_refused(tmp_path: Path, tiny_bert: Path):
    config = run_config(tmp_path, manifest("text-regression", tiny_bert, write_rows(tmp_path, "text-regression")))

    with pytest.raises(ConfigError, match="no trained sequence-classification head"):
        load_teacher(f"file://{tiny_bert}", prepare_data(config), places_of(config))


def test_r_drop_of_a_model_that_drops_nothing_is_refused(tmp_path: Path, tiny_bert: Path):
    task = "text-classification"
    document = manifest(task, tiny_bert, write_rows(tmp_path, task), training={"rDrop": 1.0, "dropout": 0.0})
    config = run_config(tmp_path, document)
    data, reporter = prepare_data(config), Reporter(tmp_path, 0)
    prepared = build_model(config.spec, data, HERE, reporter)

    with pytest.raises(ConfigError, match="drops nothing"):
        prove(config, data, prepared, HERE, reporter)
    reporter.close()
