"""`finetune sweep` with real processes on a tiny model: killed in every way and gone on with, it ends the same."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.sweep import FineTuneSweepStatus
from support.sweeps import sweep_manifest
from support.tiny import manifest, write_rows

FINETUNE = [sys.executable, "-m", "finetune_cli.main"]


def write_sweep(folder: Path, model: Path) -> Path:
    job = manifest(
        "text-classification",
        model,
        write_rows(folder, "text-classification", 96),
        method={"type": "lora"},
        training={"maxSteps": 64, "precision": "fp32", "learningRate": None},
        data={"validation": {"fraction": 0.25}},
        evaluation={"every": "16steps"},
        checkpoint={"every": "1steps"},
    )["spec"]
    del job["training"]["learningRate"]
    document = sweep_manifest(
        job, algorithm={"type": "random"}, earlyStopping={"first": 2, "reduction": 2}, trials=3, seed=3
    )
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def finetune(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FINETUNE, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300)


def kill_a_rank(work: Path, command: int) -> None:
    """Kill a process that trains and has saved something: it has the events of its trial open, as the command may."""
    for _ in range(3000):
        for folder in set(Path("/proc").glob("[0-9]*")) - {Path(f"/proc/{command}")}:
            with contextlib.suppress(OSError):
                for opened in (folder / "fd").iterdir():
                    events = opened.readlink()
                    mine = events.name == "events.jsonl" and events.is_relative_to(work / "trials")
                    if mine and any(events.parent.glob("checkpoints/step-*")):
                        os.kill(int(folder.name), signal.SIGKILL)
                        return
        time.sleep(0.02)
    raise AssertionError(f"nothing trains below {work}")


def disturbed(sweep: Path, work: Path, how: signal.Signals, *, kill_a_trial: bool = False) -> int:
    """Disturb a sweep at its second evaluation, kill a trial at its first; return the command's exit code."""
    command = [*FINETUNE, "sweep", str(sweep), "--workdir", str(work), "-o", "jsonl"]
    evaluations = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told: dict[str, Any] = json.loads(line)
            evaluations += told.get("state") == "Running" and told["evaluations"] > 0
            if evaluations == 1 and kill_a_trial:
                kill_a_rank(work, process.pid)
                kill_a_trial = False
            if evaluations == 2:
                break
        process.send_signal(how)
        process.stdout.read()
    return process.returncode


@pytest.mark.usefixtures("one_cpu")
def test_a_sweep_killed_in_every_way_ends_with_the_table_of_an_undisturbed_one(tmp_path: Path, tiny_bert: Path):
    sweep = write_sweep(tmp_path, tiny_bert)
    calm = finetune("sweep", sweep, "-o", "json")
    assert calm.returncode == 0, calm.stdout + calm.stderr
    whole = FineTuneSweepStatus.model_validate_json(calm.stdout)
    assert {each.state for each in whole.trials} == {"Complete", "Paused"}

    whole_events = "".join(each.read_text() for each in tmp_path.glob(".finetune/search/trials/*/events.jsonl"))

    work = tmp_path / "again"
    assert disturbed(sweep, work, signal.SIGKILL, kill_a_trial=True) == -signal.SIGKILL
    assert disturbed(sweep, work, signal.SIGINT) == 130
    again = finetune("sweep", sweep, "--workdir", work, "-o", "json")
    assert again.returncode == 0, again.stdout + again.stderr
    found = FineTuneSweepStatus.model_validate_json(again.stdout)
    assert found.trials == whole.trials
    events = "".join(each.read_text() for each in work.glob("trials/*/events.jsonl"))
    assert events.count('"resumed"') > whole_events.count('"resumed"'), "what was saved was done again"

    before = (work / "sweep.jsonl").read_bytes()
    assert finetune("sweep", sweep, "--workdir", work).returncode == 0
    assert (work / "sweep.jsonl").read_bytes() == before

    assert found.best is not None
    best = json.loads(finetune("run", work / "best.yaml", "--workdir", tmp_path / "alone", "-o", "json").stdout)
    assert best["result"]["metrics"] == found.best.metrics


def test_each_kind_has_its_command(pytestconfig: pytest.Config):
    examples = pytestconfig.rootpath / "examples"
    job, sweep = (
        finetune("sweep", examples / "movie-sentiment.yaml"),
        finetune("run", examples / "movie-sentiment-sweep.yaml"),
    )

    assert "kind: this command reads a FineTuneSweep, found FineTuneJob. Use finetune run or submit." in job.stderr
    assert "kind: this command reads a FineTuneJob, found FineTuneSweep. Use finetune sweep." in sweep.stderr
    assert (job.returncode, sweep.returncode) == (2, 2)
