"""FAULTS 25, 40 and 41 with two processes: a rank dies, the gang is asked to stop, the work goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from finetune_api.exit_codes import Reason, exit_code
from finetune_api.result import Result
from finetune_api.run_config import text_digest
from support.processes import rank_pid
from support.tiny import manifest, run_config, write_rows

STEPS = 60
PATIENCE_S = 300.0


class Gang:
    """The launcher and its two ranks."""

    def __init__(self, folder: Path, model: Path):
        folder.mkdir()
        sections = {"training": {"maxSteps": STEPS}, "checkpoint": {"every": "1steps"}}
        document = manifest("text-classification", model, write_rows(folder, "text-classification"), **sections)
        text = run_config(folder, document, 2).to_json()
        self.config, self.sha256 = folder / "run.json", text_digest(text)
        self.config.write_text(text)
        self.work, self.artifact = folder / "work", folder / "artifact"

    def start(self) -> subprocess.Popen[bytes]:
        verb = ["launch", "--config", str(self.config), "--sha256", self.sha256]
        return subprocess.Popen([sys.executable, "-m", "finetune_trainer", *verb])

    def steps(self) -> int:
        events = self.work / "events.jsonl"
        lines = events.read_text().splitlines() if events.exists() else []
        return max((json.loads(line)["data"]["step"] for line in lines if '"kind":"progress"' in line), default=0)

    def result(self) -> Result:
        return Result.from_json((self.work / "result.json").read_bytes())

    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.artifact / "full" / "model.safetensors")


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, "internal: the test waited in vain"
        time.sleep(0.02)


def test_a_killed_rank_ends_the_gang_and_a_stop_saves_and_the_weights_are_those_of_the_undisturbed_run(
    tmp_path: Path, tiny_bert: Path
):
    calm, disturbed = (Gang(tmp_path / name, tiny_bert) for name in ("calm", "disturbed"))
    assert calm.start().wait(PATIENCE_S) == 0

    launcher = disturbed.start()
    until(lambda: disturbed.steps() >= 5)
    os.kill(rank_pid(launcher.pid, 1), signal.SIGKILL)
    # The collective's own time limit is minutes; the launcher does not wait for it.
    assert launcher.wait(60) == exit_code(Reason.UNKNOWN)
    killed = disturbed.result()
    assert killed.failure is not None
    assert killed.failure.rank == 1
    assert killed.checkpoint is not None

    launcher = disturbed.start()
    reached = disturbed.steps()
    until(lambda: disturbed.steps() > reached)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(60) == exit_code(Reason.PREEMPTED)
    stopped = disturbed.result()
    assert stopped.outcome == "Interrupted"
    assert stopped.checkpoint is not None
    assert stopped.checkpoint.step == stopped.step > killed.checkpoint.step

    assert disturbed.start().wait(PATIENCE_S) == 0
    expected, found = calm.weights(), disturbed.weights()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
