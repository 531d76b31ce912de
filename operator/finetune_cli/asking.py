"""Ask a trained model, or judge it: the trainer answers as a process."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from finetune_api.exit_codes import Reason, reason_of
from finetune_api.result import Failure


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of which artifact."""

    artifact: Path
    rows: Path
    output: Path | None
    batch_size: int
    base: str | None
    """A folder or an address."""


@dataclass(frozen=True, slots=True)
class Trial:
    """By what an artifact is judged."""

    artifact: Path
    data: Path
    metrics: list[str]
    folder: Path
    """Where predictions and report go."""
    base: str | None


def predict(question: Question) -> Failure | None:
    """Let the trainer answer, its standard output ours; return why it could not, None when it did."""
    words = ["--input", str(question.rows), "--batch-size", str(question.batch_size)]
    if question.output is not None:
        words += ["--output", str(question.output)]
    found = _trainer("predict", question.artifact, question.base, words)
    return found if isinstance(found, Failure) else None


def evaluate(trial: Trial) -> dict[str, Any] | Failure:
    """Let the trainer judge; return what it found, or why it could not."""
    words = ["--data", str(trial.data), "--folder", str(trial.folder)]
    words += [word for name in trial.metrics for word in ("--metric", name)]
    found = _trainer("eval", trial.artifact, trial.base, words, stdout=subprocess.PIPE)
    return found if isinstance(found, Failure) else json.loads(found.splitlines()[-1])


def _trainer(
    verb: str, artifact: Path, base: str | None, words: list[str], stdout: int | IO[str] | None = None
) -> str | Failure:
    command = [sys.executable, "-m", "finetune_trainer", verb, "--artifact", str(artifact), *words]
    command += ["--cache", str(Path.home() / ".cache" / "finetune")]
    if base is not None:
        folder = "://" not in base
        command += ["--base", f"file://{Path(base).resolve()}" if folder else base]
    found = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
    )
    if found.returncode == 0:
        return found.stdout or ""
    try:
        return Failure.model_validate(json.loads(found.stderr.splitlines()[-1])["failure"])
    except (IndexError, ValueError, KeyError, TypeError):
        return Failure.of(reason_of(found.returncode) or Reason.UNKNOWN, found.stderr[-2000:])
