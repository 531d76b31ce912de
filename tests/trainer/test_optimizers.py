"""Optimisers against torch's own and against their papers, schedules, averages and noise against closed forms."""

import os
import shutil
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from finetune_api.spec import Training
from finetune_trainer.averaging import Averaging
from finetune_trainer.noise import add_embedding_noise
from finetune_trainer.optim import learning_rate
from finetune_trainer.optimizers import OPTIMIZERS, AdamW, Lion
from finetune_trainer.run import Progress, Rank, train
from finetune_trainer.stopping import StopFlag
from support.tiny import manifest, run_config, write_rows

RATE, DECAY = 0.01, 0.1


@pytest.fixture(autouse=True)
def one_cpu() -> Iterator[None]:
    """Equal decisions are what equal bits need: on a busy machine two runs may measure different numbers of threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def weights() -> dict[str, nn.Parameter]:
    torch.manual_seed(3)
    return {"matrix": nn.Parameter(torch.randn(7, 5)), "bias": nn.Parameter(torch.randn(5))}


def reference(name: str, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    groups = [
        {"params": [parameters["matrix"]], "weight_decay": DECAY},
        {"params": [parameters["bias"]], "weight_decay": 0.0},
    ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=RATE, fused=True)
    if name == "adafactor":
        return torch.optim.Adafactor(groups, lr=RATE, foreach=False)
    # torch adds SGD's decay to the gradient; ours multiplies the weights before the step.
    return torch.optim.SGD([{**group, "weight_decay": 0.0} for group in groups], lr=RATE, momentum=0.9)


@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor"])
def test_our_optimiser_moves_weights_as_torchs_and_continues_from_its_state(name: str):
    theirs, ours = weights(), weights()
    torchs = reference(name, theirs)
    optimizer = OPTIMIZERS[name](ours, DECAY)
    for step in range(6):
        if step == 3:
            kept = {key: each.clone() for key, each in optimizer.state().items()}
            optimizer = OPTIMIZERS[name](ours, DECAY)
            optimizer.restore(kept)
        for key, each in theirs.items():
            each.grad = torch.randn_like(each)
            ours[key].grad = each.grad.clone()
        if name == "sgd":
            theirs["matrix"].data.mul_(1 - RATE * DECAY)
        torchs.step()
        optimizer.step(RATE)

        exact = name == "adamw"
        for key, each in theirs.items():
            assert torch.equal(each, ours[key]) if exact else torch.allclose(each, ours[key], atol=1e-6), (step, key)
        assert ours["bias"].grad is None


def test_lion_moves_every_weight_by_the_sign_of_its_interpolated_momentum():
    ours, expected = weights(), {name: each.detach().clone() for name, each in weights().items()}
    momentum = {name: torch.zeros_like(each) for name, each in expected.items()}
    optimizer = Lion(ours, DECAY)
    for _ in range(5):
        for name, each in ours.items():
            each.grad = torch.randn_like(each)
            direction = (0.9 * momentum[name] + 0.1 * each.grad).sign()
            expected[name] -= RATE * (direction + (DECAY if name == "matrix" else 0.0) * expected[name])
            momentum[name] = 0.99 * momentum[name] + 0.01 * each.grad
        optimizer.step(RATE)

    assert all(torch.allclose(each, ours[name], atol=1e-6) for name, each in expected.items())


def test_a_rate_of_its_own_scales_a_parameters_step_and_one_left_out_keeps_its_count():
    one, other = weights(), weights()
    optimizers = AdamW(one, 0.0, {"matrix": 0.5}), AdamW(other, 0.0)
    for parameters in (one, other):
        parameters["matrix"].grad = torch.ones_like(parameters["matrix"])
    for optimizer in optimizers:
        optimizer.step(RATE)
    start = weights()

    assert torch.allclose((one["matrix"] - start["matrix"]) * 2, other["matrix"] - start["matrix"], atol=1e-6)
    assert torch.equal(one["bias"], start["bias"])
    assert optimizers[0].state()["moves"].tolist() == [1.0, 0.0]


def test_schedules_rise_over_the_warm_up_and_fall_as_they_say():
    def rates(schedule: Any) -> list[float]:
        training = Training(schedule=schedule, warmup=0.1)
        return [learning_rate(training, 1.0, step, 100) for step in range(100)]

    for schedule in ("linear", "cosine", "polynomial", "inverse-sqrt", "wsd", "constant"):
        found = rates(schedule)
        assert found[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
        assert max(found) == 1.0
        assert all(late <= early for early, late in pairwise(found[10:]))
        assert found[-1] > 0
    assert rates("polynomial")[55] == pytest.approx(0.25)
    assert rates("inverse-sqrt")[40] == pytest.approx(0.5)
    assert rates("wsd")[81] == 1.0
    assert rates("wsd")[91] == pytest.approx(0.5)
    assert all(rates(name)[-1] < 0.06 for name in ("linear", "cosine", "polynomial", "wsd"))


def test_an_average_follows_the_weights_and_is_swapped_in_for_judging():
    parameters = weights()
    average = Averaging(parameters, 0.5)
    values: list[torch.Tensor] = []
    for step in range(4):
        with torch.no_grad():
            parameters["matrix"].add_(1.0)
        values.append(parameters["matrix"].detach().clone())
        average.after_update(step)
    expected = values[0]
    for value in values[1:]:
        expected = 0.5 * expected + 0.5 * value

    average.before_judging()
    assert torch.allclose(parameters["matrix"], expected, atol=1e-6)
    average.after_judging()
    assert torch.equal(parameters["matrix"], values[-1])
    average.finish()
    assert torch.allclose(parameters["matrix"], expected, atol=1e-6)


def test_noise_is_bounded_seeded_and_only_in_training():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 16)

        def get_input_embeddings(self) -> nn.Embedding:
            return self.table

    model, ids = Model(), torch.arange(9)[None]
    plain = model.table(ids)
    add_embedding_noise(model, 5.0)
    torch.manual_seed(1)
    noisy = model.table(ids)
    torch.manual_seed(1)

    assert torch.equal(noisy, model.table(ids))
    assert 0.9 < float((noisy - plain).detach().abs().max()) * (9 * 16) ** 0.5 / 5.0 <= 1.0
    assert torch.equal(model.eval().table(ids), plain)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_a_run_that_was_stopped_ends_as_the_undisturbed_one_with_average_and_noise(
    optimizer: str, tmp_path: Path, tiny_bert: Path
):
    finals: list[Path] = []
    for way in ("calm", "stopped"):
        folder = tmp_path / way
        folder.mkdir()
        training = {"maxSteps": 6, "batchSize": 9, "precision": "fp32", "optimizer": optimizer, "average": 0.9}
        training |= {"embeddingNoise": 5.0, "learningRate": 0.001}
        sections: dict[str, Any] = {"training": training, "checkpoint": {"every": "3steps", "keep": 3}}
        rows = write_rows(folder, "text-classification")
        config = run_config(folder, manifest("text-classification", tiny_bert, rows, **sections))
        train(config, Rank(), StopFlag(), Progress())
        if way == "stopped":
            shutil.rmtree(folder / "work/checkpoints/step-00000006")
            result = train(config, Rank(), StopFlag(), Progress())
            assert result.resumed_from == 3
        finals.append(folder)
    for file in ("work/checkpoints/step-00000006/state.safetensors", "artifact/full/model.safetensors"):
        calm, stopped = (load_file(folder / file) for folder in finals)
        assert calm.keys() == stopped.keys()
        assert all(torch.equal(calm[name], stopped[name]) for name in calm), file
    state = load_file(finals[0] / "work/checkpoints/step-00000006/state.safetensors")
    handed = load_file(finals[0] / "artifact/full/model.safetensors")
    assert torch.equal(handed["classifier.weight"], state["average/classifier.weight"])
    assert not torch.equal(handed["classifier.weight"], state["model/classifier.weight"])
