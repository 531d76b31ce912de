"""Every method of the registry, on a tiny encoder and a tiny causal model: a new method is covered without a change."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from finetune_api.method_types import OWN_WEIGHTS
from finetune_api.spec import Method
from finetune_trainer.errors import ConfigError, Preempted
from finetune_trainer.methods import METHODS, attach
from finetune_trainer.models import load_model
from finetune_trainer.optim import default_learning_rate
from finetune_trainer.run import Progress, Rank, train
from finetune_trainer.stopping import StopFlag
from support.method_cases import CASES, cases, document, formats, prepared_model
from support.stopping import StopAfter
from support.theory import Shape, trained
from support.tiny import run_config

SHAPES = {
    "text-classification": Shape("bert", 32, 64, 2, 30522, 32, positions=128),
    "causal-lm": Shape("llama", 32, 64, 2, 30522, 32),
}
# Rank 2 in the first block and 4 in the second one, over (in + out) of each linear layer; rank 16 for the pooler.
RANKS_BY_LAYER = {
    "text-classification": (2 + 4) * (4 * 64 + 2 * 96) + 16 * 64 + 66,
    "causal-lm": (2 + 4) * (4 * 64 + 3 * 96),
}


_SIDE = (128 + 2) * 32 + 64  # positions, and the normalisation of the embeddings
_ATTENTION, _FEED_FORWARD = 4 * (32 * 32 + 32) + 64, 2 * 32 * 64 + 64 + 32 + 64
BART = {"encoder": _SIDE + 2 * (_ATTENTION + _FEED_FORWARD), "decoder": _SIDE + 2 * (2 * _ATTENTION + _FEED_FORWARD)}


@pytest.fixture(autouse=True)
def one_cpu() -> Iterator[None]:
    """Equal decisions are what equal bits need: on a busy machine two runs may measure different numbers of threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def test_the_contract_and_the_registry_know_the_same_methods():
    assert set(METHODS) == set(get_args(Method.model_fields["type"].annotation))
    assert all(default_learning_rate(name, pretrained=True) > 0 for name in METHODS)


@pytest.mark.parametrize(("name", "task"), cases())
def test_a_run_that_was_stopped_ends_as_the_undisturbed_one_and_its_artifact_is_the_model(
    name: str, task: str, tmp_path: Path, tiny: dict[str, Path]
):
    finals: list[dict[str, torch.Tensor]] = []
    for way in ("calm", "stopped"):
        folder = tmp_path / way
        folder.mkdir()
        training = {"maxSteps": 8, "batchSize": 9, "precision": "fp32", "learningRate": 0.01}
        sections: dict[str, Any] = {"training": training, "checkpoint": {"every": "8steps"}}
        sections["output"] = {"formats": formats(name)}
        config = run_config(folder, document(name, task, folder, tiny[task], **sections))
        progress = Progress()
        if way == "stopped":
            with pytest.raises(Preempted):
                train(config, Rank(), StopAfter(progress, 5), progress)
            assert progress.loop is not None
            assert progress.loop.step == 5
            progress = Progress()
        result = train(config, Rank(), StopFlag(), progress)
        assert result.outcome == "Complete"
        finals.append(load_file(folder / "work/checkpoints/step-00000008/state.safetensors"))
        # Each form was loaded back and compared with the trained model by the run itself.
        events = [json.loads(line) for line in (folder / "work/events.jsonl").read_text().splitlines()]
        told = [each["message"] for each in events if "verified" in each["message"]]
        assert len(told) == len(formats(name)), told

    calm, stopped = finals
    assert calm.keys() == stopped.keys()
    assert [each for each in calm if not torch.equal(calm[each], stopped[each])] == []
    assert any(each.startswith("model/") and bool(calm[each].any()) for each in calm)


@pytest.mark.parametrize(("name", "task"), cases())
def test_only_what_is_trained_moves_and_the_loss_falls(name: str, task: str, tmp_path: Path, tiny: dict[str, Path]):
    _, data, prepared = prepared_model(tmp_path, document(name, task, tmp_path, tiny[task]))
    table, model = data.encoded["train"].table, prepared.model
    rows = torch.arange(0, 32, 2).numpy()  # all with the same label or answer, which a random model can learn
    before = {each: value.detach().clone() for each, value in model.named_parameters()}
    trained = prepared.trainable()
    optimizer = torch.optim.Adam(trained.values(), lr=0.01)
    model.eval()
    losses: list[float] = []
    for _ in range(12):
        loss = data.task.loss_sum(model, data.task.collate(table, rows, 0))
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    assert losses[-1] < losses[0]
    assert {each for each, value in model.named_parameters() if not torch.equal(value, before[each])} <= set(trained)


@pytest.mark.parametrize(("name", "task"), cases())
def test_the_count_of_trained_parameters_is_that_of_the_theory(
    name: str, task: str, tmp_path: Path, tiny: dict[str, Path]
):
    _, _, prepared = prepared_model(tmp_path, document(name, task, tmp_path, tiny[task]))

    by_hand = {"lora-by-layer": RANKS_BY_LAYER.get(task), "encoder": BART["encoder"], "decoder": BART["decoder"]}
    expected = by_hand[name] if name in by_hand else trained(CASES[name], SHAPES[task])
    assert sum(each.numel() for each in prepared.trainable().values()) == expected


@pytest.mark.parametrize(("name", "missing"), [("bitfit", "biases"), ("encoder", "decoder beside its encoder")])
def test_a_method_without_weights_in_a_model_says_so(name: str, missing: str, tmp_path: Path, tiny: dict[str, Path]):
    with pytest.raises(ConfigError, match=f"a llama model has no {missing}"):
        prepared_model(tmp_path, document(name, "causal-lm", tmp_path, tiny["causal-lm"]))


def untouched(name: str) -> bool:
    """Whether an update changes nothing before it is trained."""
    return CASES[name]["type"] in {"lora", "adalora", "ia3", "bottleneck", *OWN_WEIGHTS}


@pytest.mark.parametrize(("name", "task"), [case for case in cases() if untouched(case[0])])
def test_an_untrained_update_is_the_base_model(name: str, task: str, tmp_path: Path, tiny: dict[str, Path]):
    _, data, prepared = prepared_model(tmp_path, document(name, task, tmp_path, tiny[task]))
    base: Any = load_model(data.files, data.task.head, pretrained=True).model.eval()
    ids = torch.arange(5, 17)[None]
    with torch.no_grad():
        model: Any = prepared.model.eval()
        ours = model.base_model(input_ids=ids).last_hidden_state
        theirs = base.base_model(input_ids=ids).last_hidden_state

    assert torch.allclose(ours, theirs, atol=1e-5)


def test_peft_itself_loads_what_an_update_of_its_kind_saved(tmp_path: Path, tiny: dict[str, Path]):
    from peft import PeftModel

    for name in ("lora", "pissa", "olora-rslora", "dora", "adalora", "ia3", "lora-by-layer"):
        folder = tmp_path / name
        folder.mkdir()
        _, data, prepared = prepared_model(folder, document(name, "causal-lm", folder, tiny["causal-lm"]))
        with torch.no_grad():
            for each in prepared.trainable().values():
                each.add_(torch.randn_like(each) * 0.05)
        prepared.update.save(folder / "adapter", "base")
        base = load_model(data.files, data.task.head, pretrained=True).model
        loaded: nn.Module = PeftModel.from_pretrained(base, str(folder / "adapter")).eval()
        ids = torch.arange(5, 17)[None]
        with torch.no_grad():
            difference = (loaded(input_ids=ids).logits - prepared.model.eval()(input_ids=ids).logits).abs().max()

        assert difference < 1e-4, name


def test_an_update_of_our_own_is_attached_to_a_plain_model(tmp_path: Path, tiny: dict[str, Path]):
    for name in ("prompt-tuning", "p-tuning", "prefix-tuning", "bottleneck", "layer-norm"):
        folder = tmp_path / name
        folder.mkdir()
        _, data, prepared = prepared_model(folder, document(name, "causal-lm", folder, tiny["causal-lm"]))
        prepared.update.save(folder / "adapter", "base")
        base = load_model(data.files, data.task.head, pretrained=True).model
        ids = torch.arange(5, 17)[None]
        plain = base(input_ids=ids).logits
        attached = attach(base, folder / "adapter")(input_ids=ids).logits

        assert torch.equal(attached, prepared.model.eval()(input_ids=ids).logits), name
        assert name in {"bottleneck", "layer-norm"} or not torch.allclose(attached, plain), name


@pytest.mark.parametrize("name", ["prompt-tuning", "p-tuning", "prefix-tuning"])
def test_generation_with_a_cache_writes_what_it_writes_without_one(name: str, tmp_path: Path, tiny: dict[str, Path]):
    _, _, prepared = prepared_model(tmp_path, document(name, "causal-lm", tmp_path, tiny["causal-lm"]))
    with torch.no_grad():
        for each in prepared.trainable().values():
            each.add_(torch.randn_like(each))
    ids = torch.arange(5, 17)[None]
    how = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "do_sample": False}
    ways = [prepared.model.eval().generate(ids, use_cache=cache, **how)[0].tolist() for cache in (True, False)]

    assert ways[0] == ways[1]
    assert len(set(ways[0][12:])) > 1


def test_a_budget_ends_with_the_wanted_rank_and_masked_directions_stay_zero(tmp_path: Path, tiny: dict[str, Path]):
    training = {"maxSteps": 20, "batchSize": 9, "precision": "fp32", "learningRate": 0.01}
    sections: dict[str, Any] = {"training": training, "checkpoint": {"every": "10steps", "keep": 3}}
    config = run_config(tmp_path, document("adalora", "causal-lm", tmp_path, tiny["causal-lm"], **sections))
    train(config, Rank(), StopFlag(), Progress())
    middle, end = (load_file(tmp_path / f"work/checkpoints/step-{step:08d}/state.safetensors") for step in (10, 20))

    def directions(tensors: dict[str, torch.Tensor]) -> int:
        return sum(int(each.count_nonzero()) for name, each in tensors.items() if "lora_E" in name and "model/" in name)

    assert directions(end) == 8 * 6
    assert 8 * 6 < directions(middle) < 8 * 12


def test_the_regularisation_of_adalora_has_pefts_gradient(tmp_path: Path, tiny: dict[str, Path]):
    _, _, prepared = prepared_model(tmp_path, document("adalora", "causal-lm", tmp_path, tiny["causal-lm"]))
    trained = prepared.trainable()
    matrices = {name: each for name, each in trained.items() if "lora_A" in name or "lora_B" in name}
    distances = [
        torch.norm((cov := each @ each.T if "lora_A" in name else each.T @ each) - torch.eye(len(cov)))
        for name, each in matrices.items()
    ]
    expected = torch.autograd.grad(0.5 * torch.stack(distances).mean(), list(matrices.values()))
    for each in trained.values():
        each.grad = torch.zeros_like(each)
    (budget,) = prepared.hooks
    budget.begin(10, 5)
    budget.before_update(0)

    for want, each in zip(expected, matrices.values(), strict=True):
        assert each.grad is not None
        assert torch.allclose(want, each.grad, atol=1e-6)


def test_layers_are_unfrozen_from_the_last_to_the_first(tmp_path: Path, tiny: dict[str, Path]):
    _, _, prepared = prepared_model(
        tmp_path, document("unfreezing", "text-classification", tmp_path, tiny["text-classification"])
    )
    (hook,) = prepared.hooks
    hook.begin(100, 10)

    def open_parts(step: int) -> set[str]:
        hook.before_step(step)
        return {
            name.removeprefix("bert.encoder.").rpartition(".attention")[0] or name.split(".")[1]
            for name in prepared.trainable()
        }

    assert open_parts(1) == {"pooler", "weight", "bias"}
    assert "layer.1" in open_parts(2)
    assert "layer.0" not in open_parts(3)
    assert "layer.0" in open_parts(4)
    assert "embeddings" not in open_parts(5)
    assert "embeddings" in open_parts(6)


def test_layers_learn_at_decaying_rates_and_b_at_its_ratio(tmp_path: Path, tiny: dict[str, Path]):
    for name in ("decayed", "lora-plus"):
        (tmp_path / name).mkdir()
    _, _, decayed = prepared_model(
        tmp_path / "decayed", document("decayed", "causal-lm", tmp_path / "decayed", tiny["causal-lm"])
    )
    _, _, plus = prepared_model(
        tmp_path / "lora-plus", document("lora-plus", "causal-lm", tmp_path / "lora-plus", tiny["causal-lm"])
    )

    assert decayed.rates["model.norm.weight"] == 1.0
    assert decayed.rates["model.layers.1.mlp.up_proj.weight"] == 0.5
    assert decayed.rates["model.layers.0.mlp.up_proj.weight"] == 0.25
    assert decayed.rates["model.embed_tokens.weight"] == 0.125
    assert {rate for name, rate in plus.rates.items() if "lora_B" in name} == {16.0}
    assert not any("lora_A" in name for name in plus.rates)
