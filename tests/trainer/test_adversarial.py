"""Attacked rows against the algorithms written out over transformers' own forward, for every task that has them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from finetune_api.objective_rules import ATTACKED
from finetune_api.spec import Adversarial as Settings
from finetune_trainer.objectives.adversarial import Adversarial
from finetune_trainer.objectives.perturbing import moved
from finetune_trainer.preparation import prepare_data
from support.tiny import CASES, manifest, model_of, run_config, train, write_rows

ROWS = np.arange(6)
EPOCH, SEED, RADIUS = 1, 42, 0.8
TOLERANCE = 1e-4
STEPS = {"fgm": 1, "pgd": 3, "freelb": 2, "smart": 1}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads over a tiny model wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def term(task: Any, kind: str, **more: Any) -> Adversarial:
    return Adversarial(task, Settings(type=kind, radius=RADIUS, **{"share": 1.0, **more}), SEED)


class Case:
    """A task and its model in evaluation mode, with a loss by transformers' forward over an input that can be moved."""

    def __init__(self, task: str, folder: Path, model: Path) -> None:
        document = manifest(task, model, write_rows(folder, task), training={"adversarial": {"type": "fgm"}})
        self.data = prepare_data(run_config(folder, document))
        self.task, self.table = self.data.task, self.data.encoded["train"].table
        self.model = model_of(self.data)

    def gradient(self, kind: str, pieces: list[np.ndarray], **more: Any) -> Tensor:
        objective = term(self.task, kind, **more)
        self.model.zero_grad()
        for rows in pieces:
            objective.loss_sum(self.model, objective.collate(self.table, rows, EPOCH)).sum().backward()
        return self.weights()

    def weights(self) -> Tensor:
        found = [torch.zeros_like(each) if each.grad is None else each.grad for each in self.model.parameters()]
        return torch.cat([each.flatten() for each in found])


class Written:
    """The algorithms of the papers over one input tensor, row by row."""

    def __init__(self, case: Case) -> None:
        self.model, batch = case.model, case.task.collate(case.table, ROWS, EPOCH)
        self.labels, inputs = batch.tensors["labels"], batch.inputs()
        if "pixel_values" in inputs:
            self.whole, self.name, self.rest = inputs["pixel_values"], "pixel_values", {}
            self.inside = torch.ones_like(self.whole)
            return
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask
        self.whole, self.name = self.model.get_input_embeddings()(ids), "inputs_embeds"
        self.rest, self.inside = {"attention_mask": mask}, mask[:, :, None].expand_as(self.whole).float()

    def logits(self, delta: Tensor | float = 0.0) -> Tensor:
        return self.model(**{self.name: self.whole + delta}, **self.rest).logits

    def loss(self, delta: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(delta), self.labels, reduction="sum")

    def start(self) -> Tensor:
        noise = torch.zeros_like(self.whole)
        for at, row in enumerate(ROWS):
            drawn = np.random.default_rng((SEED, EPOCH, row, 2)).random(self.whole.shape[1:], dtype=np.float32)
            noise[at] = (torch.from_numpy(drawn) * 2 - 1) * self.inside[at] * RADIUS / self.inside[at].sum().sqrt()
        return noise

    def climbed(self, value: Tensor, delta: Tensor, length: float) -> Tensor:
        (gradient,) = torch.autograd.grad(value, delta, retain_graph=True)
        out = delta.detach().clone()
        for row in range(len(out)):
            out[row] += length * gradient[row] / gradient[row].norm()
            if out[row].norm() > RADIUS:
                out[row] *= RADIUS / out[row].norm()
        return out

    def total(self, kind: str) -> Tensor:
        delta = torch.zeros_like(self.whole) if kind == "fgm" else self.start()
        length = RADIUS if kind == "fgm" else 2.5 * RADIUS / STEPS[kind]
        clean, losses = self.logits(), []
        for _ in range(STEPS[kind]):
            delta.requires_grad_()
            losses.append(self.loss(delta))
            attacked = kl(clean.detach(), self.logits(delta)) if kind == "smart" else losses[-1]
            delta = self.climbed(attacked, delta, length)
        if kind == "freelb":
            return torch.stack(losses).mean()
        if kind == "smart":
            there = self.logits(delta)
            return (
                F.cross_entropy(clean, self.labels, reduction="sum") + 1.5 * (kl(clean, there) + kl(there, clean)) / 2
            )
        return self.loss(delta)


def kl(one: Tensor, other: Tensor) -> Tensor:
    p, q = (torch.distributions.Categorical(logits=each) for each in (one, other))
    return torch.distributions.kl_divergence(p, q).sum()


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("task", ["text-classification", "image-classification"])
def test_an_attack_is_the_algorithm_of_its_paper(task: str, kind: str, tmp_path: Path, tiny: dict[str, Path]):
    case = Case(task, tmp_path, tiny[task])
    weight = {"weight": 1.5} if kind == "smart" else {}
    objective = term(case.task, kind, **weight)
    found = objective.loss_sum(case.model, objective.collate(case.table, ROWS, EPOCH))
    mine = case.gradient(kind, [ROWS], **weight)
    case.model.zero_grad()
    wanted = Written(case).total(kind)
    wanted.backward()
    plain = case.task.loss_sum(case.model, case.task.collate(case.table, ROWS, EPOCH))

    assert torch.allclose(found, wanted, rtol=1e-4)
    assert (mine - case.weights()).norm() <= 1e-3 * mine.norm()
    assert found.item() > plain.item() + 1e-4


@pytest.fixture(params=[each for each in CASES if each.partition(":")[0] in ATTACKED])
def case(request: pytest.FixtureRequest, tmp_path: Path, tiny: dict[str, Path]) -> Case:
    return Case(request.param, tmp_path, tiny[request.param])


def test_a_row_is_attacked_alike_in_any_batch(case: Case):
    whole = case.gradient("pgd", [ROWS], steps=2)

    assert (whole - case.gradient("pgd", np.array_split(ROWS, 4), steps=2)).norm() <= TOLERANCE * whole.norm()
    assert (whole - case.gradient("fgm", [ROWS])).norm() > 0


def test_a_share_of_the_rows_is_attacked_and_another_one_in_the_next_epoch(tmp_path: Path, tiny_bert: Path):
    case = Case("text-classification", tmp_path, tiny_bert)
    objective, rows = term(case.task, "fgm", share=0.3), np.arange(48)
    chosen = []
    for epoch in range(20):
        batch = objective.collate(case.table, rows, epoch)
        assert batch.clean is not None
        assert batch.attacked is not None
        assert sorted([*batch.clean.rows, *batch.attacked.rows]) == rows.tolist()
        chosen.append(tuple(batch.attacked.rows))

    assert len(set(chosen)) == 20
    assert 0.25 < np.mean([len(each) for each in chosen]) / 48 < 0.35


def test_a_search_leaves_no_gradient_on_weights_and_the_model_in_its_mode(tmp_path: Path, tiny_bert: Path):
    case = Case("text-classification", tmp_path, tiny_bert)
    case.model.train()
    objective = term(case.task, "pgd")
    objective.loss_sum(case.model, objective.collate(case.table, ROWS, EPOCH))

    assert case.model.training
    assert all(each.grad is None for each in case.model.parameters())


@pytest.mark.parametrize("task", ["text-classification", "image-classification"])
def test_only_the_model_that_is_attacked_reads_a_moved_input(task: str, tmp_path: Path, tiny: dict[str, Path]):
    case = Case(task, tmp_path, tiny[task])
    teacher = model_of(case.data)
    objective = term(case.task, "fgm")
    batch = objective.collate(case.table, ROWS, EPOCH).attacked
    assert batch is not None
    delta = torch.randn_like(Written(case).whole)

    def says(model: Any) -> Tensor:
        with torch.no_grad():
            return case.task.scored(model, batch).hidden

    before = says(case.model), says(teacher)
    with moved(case.model, batch, delta):
        inside = says(case.model), says(teacher)
    assert not torch.allclose(before[0], inside[0], atol=1e-4)
    assert torch.equal(before[1], inside[1])
    assert torch.equal(before[0], says(case.model))


@pytest.mark.parametrize("kind", STEPS)
def test_a_run_in_bf16_with_dropout_is_attacked(kind: str, tmp_path: Path, tiny_bert: Path):
    attack = {"type": kind, "radius": RADIUS, "share": 1.0}
    training = {"adversarial": attack, "precision": "bf16", "dropout": 0.1, "maxSteps": 2}
    rows = write_rows(tmp_path, "text-classification")
    done = train(run_config(tmp_path, manifest("text-classification", tiny_bert, rows, training=training)))

    assert done.outcome == "Complete"
