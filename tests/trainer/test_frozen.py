"""Blocks below the first trained one are computed once per row, and nobody can tell from the numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from finetune_trainer.errors import Preempted
from finetune_trainer.methods.frozen import Store
from finetune_trainer.run import Progress, Rank, train
from finetune_trainer.stopping import StopFlag
from support.stopping import StopAfter
from support.tiny import manifest, run_config, write_rows

pytestmark = pytest.mark.usefixtures("one_cpu")
HEAD, TOP = {"type": "head"}, {"type": "top-layers", "layers": 1}


def run(folder: Path, model: Path, method: dict[str, Any], cache: Path, *, stop_at: int = 0, **training: Any) -> Any:
    folder.mkdir(exist_ok=True)
    task = training.pop("task", "text-classification")
    formats = training.pop("formats", ["adapter", "full"])
    settings = {"maxSteps": 8, "batchSize": 9, "precision": "fp32", "learningRate": 0.01, **training}
    document = manifest(task, model, write_rows(folder, task), method=method, training=settings)
    document["spec"] |= {"checkpoint": {"every": "8steps"}, "output": {"formats": formats}}
    document["spec"]["data"]["validation"] = {"fraction": 0.2}
    config = run_config(folder, document)
    config = config.model_copy(update={"paths": config.paths.model_copy(update={"cache": str(cache)})})
    progress = Progress()
    if stop_at:
        with pytest.raises(Preempted):
            train(config, Rank(), StopAfter(progress, stop_at), progress)
        progress = Progress()
    train(config, Rank(), StopFlag(), progress)
    return load_file(folder / "work/checkpoints/step-00000008/state.safetensors"), progress.metrics


def told(folder: Path, name: str) -> str:
    lines = (folder / "work/events.jsonl").read_text().splitlines()
    return [json.loads(line)["message"] for line in lines if name in line][-1]


def never(*_: object) -> bool:
    return False


def none(_: object) -> int:
    return 0


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", [HEAD, TOP], ids=["head", "top"])
def test_states_found_lost_damaged_or_without_room_end_in_the_same_bits(
    method: dict[str, Any], tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
):
    cache = tmp_path / "cache"
    first = run(tmp_path / "first", tiny_bert, method, cache)
    files = sorted((cache / "states").iterdir())
    assert len(files) == 2
    assert "0 of 48 rows found" in told(tmp_path / "first", "frozenStates")

    again = run(tmp_path / "again", tiny_bert, method, cache)
    assert "48 of 48 rows found" in told(tmp_path / "again", "frozenStates")
    for file in files:
        file.write_bytes(file.read_bytes()[:-1])
    damaged = run(tmp_path / "damaged", tiny_bert, method, cache)
    assert "0 of 48 rows found" in told(tmp_path / "damaged", "frozenStates")
    stopped = run(tmp_path / "stopped", tiny_bert, method, cache, stop_at=5)
    monkeypatch.setattr(Store, "_make_room", never)
    without = run(tmp_path / "without", tiny_bert, method, tmp_path / "none")
    assert list((tmp_path / "none" / "states").iterdir()) == []

    for other in (again, damaged, stopped, without):
        assert same(first[0], other[0])
        assert first[1] == other[1]


@pytest.mark.parametrize("method", [HEAD, TOP], ids=["head", "top"])
@pytest.mark.parametrize("task", ["text-classification", "text-regression"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_run_from_states_is_the_run_through_all_blocks_up_to_rounding(  # noqa: PLR0917 - fixtures
    method: dict[str, Any],
    task: str,
    kind: str,
    tmp_path: Path,
    tiny: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
):
    model = tiny["text-classification" if kind == "bert" else "causal-lm"]
    from_states, metrics = run(tmp_path / "with", model, method, tmp_path / "cache", task=task, dropout=0.0)
    assert told(tmp_path / "with", "frozenBlocks").startswith(f"frozenBlocks: {2 if method is HEAD else 1}")
    monkeypatch.setattr("finetune_trainer.methods.frozen._frozen", none)
    through, plain = run(tmp_path / "without", model, method, tmp_path / "cache", task=task, dropout=0.0)

    for name in through:
        assert torch.allclose(from_states[name], through[name], rtol=1e-3, atol=1e-4), name
    assert metrics["validation/loss"] == pytest.approx(plain["validation/loss"], rel=1e-4)


def test_other_weights_rows_or_blocks_never_share_states(tmp_path: Path, tiny_bert: Path):
    cache = tmp_path / "cache"
    run(tmp_path / "one", tiny_bert, HEAD, cache)
    run(tmp_path / "two", tiny_bert, TOP, cache)
    assert "0 of 48 rows found" in told(tmp_path / "two", "frozenStates")
    run(tmp_path / "three", tiny_bert, HEAD, cache, seed=7)

    assert "0 of 48 rows found" in told(tmp_path / "three", "frozenStates")


def test_noise_below_the_first_trained_block_computes_it_in_every_step(tmp_path: Path, tiny_bert: Path):
    run(tmp_path / "noisy", tiny_bert, HEAD, tmp_path / "cache", embeddingNoise=5.0)

    assert told(tmp_path / "noisy", "frozenBlocks").startswith("frozenBlocks: 0")
    assert not (tmp_path / "cache" / "states").exists()


@pytest.mark.parametrize("kind", ["prompt-tuning", "lora", "bitfit"])
def test_a_method_that_acts_on_the_first_block_runs_it_in_every_step(kind: str, tmp_path: Path, tiny_bert: Path):
    run(tmp_path / "run", tiny_bert, {"type": kind}, tmp_path / "cache", formats=["adapter"])

    assert told(tmp_path / "run", "frozenBlocks").startswith("frozenBlocks: 0")


def test_the_least_recently_used_states_make_room_and_too_large_ones_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("finetune_trainer.methods.frozen._LARGEST_BYTES", 800)
    store = Store(tmp_path / "states")
    for name in ("old", "new"):
        store.write(name, np.zeros(60, dtype=np.float32))
    assert store.read("old") is not None
    store.write("third", np.zeros(60, dtype=np.float32))
    store.write("large", np.zeros(600, dtype=np.float32))

    kept = {file.stem for file in (tmp_path / "states").iterdir()}
    assert kept == {"old", "third"}
