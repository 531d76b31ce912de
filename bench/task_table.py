"""Every task on its example: the untrained model, the trained one, and what a trivial answer reaches.

Each row is two runs of a manifest of examples/ as a user would make them: one with `training.epochs: 0`, which judges
the model as it comes, and the example itself. A row holds when the trained model beats the trivial answer by the margin
that stands here. Rows are kept in bench/results/tasks.json, a run replaces those that it measured, and the page
docs/reference/measured-tasks.md is made of all of them. Exits 0 only if every row that was asked for holds.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv" / "bin" / "python"
EXAMPLES = ROOT / "examples"
RESULTS = ROOT / "bench" / "results" / "tasks.json"
PAGE = ROOT / "docs" / "reference" / "measured-tasks.md"
COLUMNS = (
    "task",
    "data, rows to train and test on",
    "model, method",
    "metric",
    "before",
    "trivial answer",
    "after",
    "margin",
    "seconds",
    "example",
)
LOWER = frozenset({"wer", "cer", "perplexity", "loss", "mae", "rmse"})


@dataclass(frozen=True, slots=True)
class Entry:
    """What an example is judged by."""

    example: str
    data: str
    """What it is, and how many rows train and test."""
    model: str
    metric: str
    trivial: str
    """The answer that needs no learning; empty when it is the untrained model itself."""
    reached: float | None
    """What it reaches; None when it is the untrained model's own figure."""
    margin: float
    """By how much it must be beaten."""


_FOLDOC = "FOLDOC"
_MINILM = "MiniLM, 22.7 M"
_SMOLLM = "SmolLM2-135M-Instruct"
_MOVIES = "10,605 movie reviews, 8,484 and 2,121"
_DETR = "a Deformable DETR of 0.35 M from nothing"
_SEGFORMER = "a SegFormer of 0.15 M from nothing"
_CAPTIONER = "an image-to-text model from nothing"
_INDEX = "package index of Debian"
ENTRIES = (
    Entry("movie-sentiment", _MOVIES, _MINILM, "accuracy", "the more frequent class", 0.5, 0.25),
    Entry("movie-sentiment-full", _MOVIES, _MINILM, "accuracy", "the more frequent class", 0.5, 0.25),
    Entry("movie-sentiment-chat", _MOVIES, _SMOLLM, "exact_match", "", None, 0.1),
    Entry("movie-sentiment-preference", _MOVIES, _SMOLLM, "accuracy", "a guess", 0.5, 0.1),
    Entry("support-desk", "COMPOSED over an index, 480 and 160", _SMOLLM, "exact_match", "one team", 0.125, 0.2),
    Entry("money-sentiment", "editorials, 4,803 and 387 sentences", _MINILM, "pearson", "the mean rating", 0.0, 0.4),
    Entry("domain-pretrain", "the same reviews without labels", _MINILM, "perplexity", "", None, 1.0),
    Entry("acronyms", f"{_FOLDOC}, 770 and 256", _MINILM, "exact_match", "the first entry", 0.46, 0.3),
    Entry("definitions", f"{_FOLDOC}, 1,200 and 400", _MINILM, "accuracy", "a guess", 0.25, 0.3),
    Entry("term-tags", f"{_FOLDOC}, 2,400 and 600 sentences", _MINILM, "f1", "terms looked up", 0.46, 0.05),
    Entry("package-baskets", _INDEX, "a decoder from nothing", "ndcg_at_10", "the most popular items", 0.25, 0.01),
    Entry("package-pairs", _INDEX, _MINILM, "recall_at_1", "", None, 0.01),
    Entry("package-documents", _INDEX, _MINILM, "next_accuracy", "a guess", 0.5, 0.2),
    Entry("package-summaries", _INDEX, "a small T5 from nothing", "rougeL", "the first nine words", 0.22, 0.02),
    Entry("package-translation", _INDEX, "a small Marian from nothing", "chrf", "the source copied", 32.8, 1.0),
    Entry("digits", "MNIST, 4,000 and 1,000", "a ViT of 0.3 M from nothing", "accuracy", "nearest mean", 0.822, 0.05),
    Entry(
        "digit-captions",
        "pairs of MNIST digits with COMPOSED captions, 6,000 and 400",
        "a CLIP of 0.9 M from nothing",
        "zero_shot_accuracy",
        "a guess among 20",
        0.05,
        0.6,
    ),
    Entry("digit-scenes", "scenes COMPOSED of MNIST digits, 3,000 and 500", _DETR, "map", "boxes in a grid", 0.0, 0.3),
    Entry("digit-masks", "the same scenes and their masks", _SEGFORMER, "mean_iou", "background", 0.081, 0.2),
    Entry("digit-titles", "the same pairs, their titles", _CAPTIONER, "exact_match", "the commonest title", 0.012, 0.3),
    Entry("digit-questions", "COMPOSED questions on them", _CAPTIONER, "exact_match", "no question", 0.552, 0.05),
    Entry("spoken-choices", "COMPOSED of prompts and digits", "three encoders", "accuracy", "two parts", 0.675, 0.02),
    Entry("voice-prompts", "recorded prompts, 399 and 128", "Whisper tiny.en, 37.8 M", "wer", "", None, 0.05),
    Entry("prompt-languages", "recorded prompts", "a wav2vec2 from nothing", "accuracy", "one language", 0.2, 0.2),
    Entry("spoken-numbers", "SYNTHETIC speech of espeak-ng", "a wav2vec2 from nothing", "wer", "no text", 1.0, 0.3),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One measured example."""

    example: str
    task: str
    data: str
    model: str
    method: str
    metric: str
    before: float
    trivial: str
    reached: float
    margin: float
    after: float
    seconds: float
    holds: bool
    at: str


def main() -> int:
    """Measure what was asked for, keep it, draw the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names of examples, separated by commas; all when empty")
    parser.add_argument("--page", action="store_true", help="measure nothing; make the page of the kept rows")
    arguments = parser.parse_args()
    names = [name for name in arguments.only.split(",") if name]
    if unknown := set(names) - {each.example for each in ENTRIES}:
        parser.error(f"--only: no example of this table is called {', '.join(sorted(unknown))}")
    kept = {row["example"]: Row(**row) for row in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    asked = [] if arguments.page else [each for each in ENTRIES if not names or each.example in names]
    for entry in asked:
        row = kept[entry.example] = measured(entry)
        print(f"{row.example:<28}{row.metric:<22}{row.before:>10.3f}{row.after:>10.3f}", holding(row), flush=True)
        ordered = [kept[each.example] for each in ENTRIES if each.example in kept]
        RESULTS.write_text(json.dumps([asdict(each) for each in ordered], indent=1) + "\n")
    PAGE.write_text(page([kept[each.example] for each in ENTRIES if each.example in kept]))
    return 0 if all(kept[each.example].holds for each in asked) else 1


def measured(entry: Entry) -> Row:
    """Judge the model as it comes, train it, and judge it again."""
    spec: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{entry.example}.yaml").read_text())["spec"]
    before, _ = figure(entry, ["training.epochs=0", "training.maxSteps=null"])
    after, seconds = figure(entry, [])
    reached = before if entry.reached is None else entry.reached
    gain = reached - after if entry.metric in LOWER else after - reached
    return Row(
        entry.example,
        spec["task"],
        entry.data,
        entry.model,
        spec["method"]["type"],
        entry.metric,
        before,
        entry.trivial or "the model as it comes",
        reached,
        entry.margin,
        after,
        round(seconds),
        gain >= entry.margin,
        datetime.now(UTC).date().isoformat(),
    )


def figure(entry: Entry, changes: Sequence[str]) -> tuple[float, float]:
    """Run an example in a work folder of its own; return its metric and the seconds that the command took."""
    folder = ROOT / "build" / "task-table" / entry.example
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    command = [str(PYTHON), "-m", "finetune_cli.main", "run", str(EXAMPLES / f"{entry.example}.yaml"), "-o", "json"]
    # The table judges; a gate would keep the figures of a model that misses it.
    for change in ("evaluation.gate=null", *changes):
        command += ["--set", change]
    started = time.monotonic()
    done = subprocess.run([*command, "--workdir", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(
            f"{entry.example} {' '.join(changes)}: exit code {done.returncode}\n{done.stderr}{done.stdout}"
        )
    seconds = time.monotonic() - started
    metrics: dict[str, str] = json.loads(done.stdout.splitlines()[-1])["result"]["metrics"]
    found = metrics.get(f"test/{entry.metric}") or metrics[f"validation/{entry.metric}"]
    return float(found), seconds


def holding(row: Row) -> str:
    """Say whether the margin was reached."""
    return "holds" if row.holds else "MISSED"


def page(rows: Sequence[Row]) -> str:
    """Return the documentation's table."""
    lines = [
        "# Tasks, measured",
        "Made by `make task-table`; each row is its example, run as it stands. Seconds are those of the whole command.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    lines += [
        f"| {row.task} | {row.data} | {row.model}, {row.method} | {row.metric} | {row.before:.3f}"
        f" | {row.trivial}: {row.reached:.3f} | {row.after:.3f} | {row.margin:g}, {holding(row)}"
        f" | {row.seconds:.0f} | {row.example}.yaml |"
        for row in rows
    ]
    missing = [each.example for each in ENTRIES if each.example not in {row.example for row in rows}]
    if missing:
        lines += ["", f"Not measured yet: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
