"""FAULTS 40 to 44, 47 and 51: what survives a kill, a stop, a full disk, a damaged checkpoint, a NaN."""

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune_api.exit_codes import Reason, exit_code
from finetune_api.result import Result
from finetune_trainer import checkpoint
from finetune_trainer.checkpoint import TrainState, newest_valid, save
from finetune_trainer.errors import NonFiniteLoss, StorageUnavailable
from finetune_trainer.run import Progress, Rank, train
from finetune_trainer.stopping import StopFlag
from finetune_trainer.tasks.text_classification import TextClassification
from support.tiny import manifest, run_config, write_rows

STEPS = 100
KILLS = 30


class ForkServer:
    def __init__(self) -> None:
        script = Path(__file__).parent.parent / "support" / "fork_server.py"
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        # One CPU is one thread without measuring: two runs that measure on a busy machine may decide differently, and
        # the last bits of their weights with them.
        os.sched_setaffinity(self.process.pid, {min(os.sched_getaffinity(0))})

    def line(self, expected: str) -> int:
        assert self.process.stdout is not None
        word, number = self.process.stdout.readline().decode().split()
        assert word == expected
        return int(number)

    def start(self, config: Path) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{config}\n".encode())
        self.process.stdin.flush()
        return self.line("pid")

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(self.line("end"))


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    assert server.process.stdin is not None
    with server.process:
        server.process.stdin.close()


def prepared_run(folder: Path, model: Path, **sections: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    sections = {"training": {"maxSteps": STEPS}, "checkpoint": {"every": "1steps"}} | sections
    # Measured anew by a run that is killed before its first checkpoint; two measurements may differ on a busy machine.
    sections["training"] = {"precision": "fp32"} | sections["training"]
    rows = write_rows(folder, "text-classification")
    config = run_config(folder, manifest("text-classification", model, rows, **sections))
    (folder / "run.json").write_text(config.to_json())
    return folder / "run.json"


def timed_run(server: ForkServer, config: Path) -> float:
    """Return the seconds of a run; the second one of a configuration has nothing left to train."""
    started = time.monotonic()
    server.start(config)
    assert server.wait() == 0
    return time.monotonic() - started


def final_weights(config: Path) -> dict[str, torch.Tensor]:
    return load_file(config.parent / "artifact" / "full" / "model.safetensors")


def test_thirty_kills_at_random_moments_end_in_the_weights_of_the_undisturbed_run(
    tmp_path: Path, tiny_bert: Path, server: ForkServer
):
    undisturbed, killed = (prepared_run(tmp_path / name, tiny_bert) for name in ("calm", "killed"))
    server.start(prepared_run(tmp_path / "warm", tiny_bert))
    assert server.wait() == 0
    whole_s, rest_s = (timed_run(server, undisturbed) for _ in range(2))
    rng = random.Random(7)
    steps: list[int] = []
    while len(steps) < KILLS:
        pid = server.start(killed)
        # So short that the steps of the whole run are spread over the kills.
        time.sleep(rng.uniform(0.5, 1.2) * rest_s + rng.uniform(0.0, 0.15) * (whole_s - rest_s))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if server.wait() != 0:
            found = newest_valid(killed.parent / "work" / "checkpoints")
            steps.append(checkpoint.load(found.path).step if found.path else 0)
    server.start(killed)
    assert server.wait() == 0

    assert steps == sorted(steps)
    assert len(set(steps)) > 3
    expected, found_weights = final_weights(undisturbed), final_weights(killed)
    assert expected.keys() == found_weights.keys()
    assert all(torch.equal(expected[name], found_weights[name]) for name in expected)
    result = Result.from_json((killed.parent / "work" / "result-rank-0.json").read_bytes())
    assert result.resumed_from is not None


def test_sigterm_saves_the_step_under_way_and_the_next_run_continues_from_it(
    tmp_path: Path, tiny_bert: Path, server: ForkServer
):
    config = prepared_run(tmp_path, tiny_bert, checkpoint={"every": "2h"}, training={"maxSteps": 400})
    events = tmp_path / "work" / "events.jsonl"
    pid = server.start(config)
    while not events.exists() or '"progress"' not in events.read_text():
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)

    assert server.wait() == exit_code(Reason.PREEMPTED)
    result = Result.from_json((tmp_path / "work" / "result-rank-0.json").read_bytes())
    assert result.outcome == "Interrupted"
    assert result.checkpoint is not None
    assert result.checkpoint.step == result.step > 0
    server.start(config)
    assert server.wait() == 0
    assert Result.from_json((tmp_path / "work" / "result-rank-0.json").read_bytes()).resumed_from == result.step


def some_state(step: int) -> TrainState:
    return TrainState(step, {"model/w": torch.full((1000,), float(step))}, {"k": step})


@pytest.mark.parametrize("damage", ["truncated", "flipped", "manifest", "file"])
def test_a_damaged_checkpoint_is_skipped_by_name_and_the_one_before_wins(tmp_path: Path, damage: str):
    good, bad = (save(tmp_path, some_state(step), keep=3) for step in (1, 2))
    tensors = bad / "state.safetensors"
    if damage == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:-1])
    elif damage == "flipped":
        content = bytearray(tensors.read_bytes())
        content[-7] ^= 1
        tensors.write_bytes(content)
    else:
        (bad / "manifest.json" if damage == "manifest" else tensors).unlink()
    found = newest_valid(tmp_path)

    assert found.path == good
    assert [name for name, _ in found.skipped] == [bad.name]
    assert checkpoint.load(good).tensors["model/w"][0] == 1.0


def test_a_full_disk_leaves_the_old_checkpoint_intact_and_nothing_half_written(tmp_path: Path):
    good = save(tmp_path, some_state(1), keep=2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(StorageUnavailable) as caught:
            save(tmp_path, some_state(2), keep=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)

    assert "step-00000002" in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == [good.name]
    assert newest_valid(tmp_path).path == good


def test_old_checkpoints_and_leftovers_of_a_killed_save_are_removed(tmp_path: Path):
    (tmp_path / ".step-00000001.abc").mkdir()
    for step in range(1, 6):
        save(tmp_path, some_state(step), keep=2)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]


def test_a_nan_stops_before_the_optimiser_moves_names_the_row_and_keeps_the_checkpoint(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
):
    config_file = prepared_run(tmp_path, tiny_bert, training={"maxSteps": 20})
    config = run_config(tmp_path, json_manifest(config_file, tiny_bert, tmp_path))
    progress = Progress()
    original = TextClassification.loss_sum

    def poisoned(self: TextClassification, model: Any, batch: Any) -> torch.Tensor:
        loss = original(self, model, batch)
        armed = progress.loop is not None and progress.loop.step >= 3
        return loss * float("nan") if armed and 17 in batch.rows else loss

    monkeypatch.setattr(TextClassification, "loss_sum", poisoned)
    with pytest.raises(NonFiniteLoss) as caught:
        train(config, Rank(), StopFlag(), progress)

    assert "not finite on text-classification.jsonl, row 18" in caught.value.message
    assert progress.loop is not None
    found = newest_valid(tmp_path / "work" / "checkpoints")
    assert found.path is not None
    state = checkpoint.load(found.path)
    assert state.step == progress.loop.step >= 3
    live = {f"model/{name}": each for name, each in progress.loop._parts.parameters.items()}
    assert all(torch.equal(each, state.tensors[name]) for name, each in live.items())


def json_manifest(_: Path, model: Path, folder: Path) -> dict[str, Any]:
    return manifest(
        "text-classification",
        model,
        folder / "text-classification.jsonl",
        training={"maxSteps": 20},
        checkpoint={"every": "1steps"},
    )


def test_early_stopping_hands_over_the_best_state(tmp_path: Path, tiny_bert: Path):
    rows = write_rows(tmp_path, "text-classification")
    training = {"maxSteps": 60, "learningRate": 0.5, "earlyStopping": {"metric": "loss", "patience": 2}}
    document = manifest(
        "text-classification",
        tiny_bert,
        rows,
        training=training,
        evaluation={"every": "2steps"},
        data={"validation": {"fraction": 0.25}},
    )
    result = train(run_config(tmp_path, document), Rank(), StopFlag(), Progress())
    events = [json.loads(line) for line in (tmp_path / "work" / "events.jsonl").read_text().splitlines()]
    losses = [e["data"]["metrics"]["loss"] for e in events if e["kind"] == "evaluation"]

    assert result.step < 60
    assert result.metrics["validation/loss"] == pytest.approx(min(losses), rel=1e-5)


def test_a_gate_that_is_missed_hands_nothing_over(tmp_path: Path, tiny_bert: Path):
    from finetune_trainer.errors import GateFailed

    rows = write_rows(tmp_path, "text-classification")
    gate = {"gate": {"metric": "accuracy", "minimum": 0.5, "betterThanBase": 1.0}}
    document = manifest("text-classification", tiny_bert, rows, evaluation=gate, data={"test": {"fraction": 0.25}})

    with pytest.raises(GateFailed, match="the untrained model has"):
        train(run_config(tmp_path, document), Rank(), StopFlag(), Progress())

    assert not (tmp_path / "artifact").exists()


def test_a_checkpoint_of_another_manifest_is_refused(tmp_path: Path, tiny_bert: Path):
    from finetune_trainer.errors import ConfigError

    rows = write_rows(tmp_path, "text-classification")
    for rate in (0.001, 0.002):
        training = {"learningRate": rate}
        document = manifest("text-classification", tiny_bert, rows, training=training, checkpoint={"every": "1steps"})
        config = run_config(tmp_path, document)
        if rate == 0.001:
            train(config, Rank(), StopFlag(), Progress())
    with pytest.raises(ConfigError, match="made by another model"):
        train(config, Rank(), StopFlag(), Progress())


def launch(config: Path, sha256: str, **environment: str) -> int:
    command = [sys.executable, "-m", "finetune_trainer", "launch", "--config", str(config), "--sha256", sha256]
    return subprocess.run(
        command,
        capture_output=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},  # noqa: TID251
    ).returncode


def test_a_patched_run_configuration_starts_nothing(tmp_path: Path, tiny_bert: Path):
    config = prepared_run(tmp_path, tiny_bert)

    assert launch(config, "0" * 64) == exit_code(Reason.CONFIG_ERROR)
    assert not (tmp_path / "work").exists()


def test_a_rank_that_gives_no_sign_of_life_is_ended_as_stalled(tmp_path: Path, tiny_bert: Path):
    config = prepared_run(tmp_path, tiny_bert)
    from finetune_api.run_config import text_digest

    log = tmp_path / "termination-log"
    code = launch(
        config, text_digest(config.read_bytes()), FINETUNE_STALL_SECONDS="0.5", FINETUNE_TERMINATION_LOG=str(log)
    )

    assert code == exit_code(Reason.STALLED)
    failure = Result.from_json(log.read_bytes()).failure
    assert failure is not None
    assert failure.reason is Reason.STALLED
