"""Ask a trained model: the trainer answers as a process, its standard output is ours."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

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


def predict(question: Question) -> Failure | None:
    """Let the trainer answer; return why it could not, None when it did."""
    command = [sys.executable, "-m", "finetune_trainer", "predict"]
    command += ["--artifact", str(question.artifact), "--input", str(question.rows)]
    command += ["--batch-size", str(question.batch_size), "--cache", str(Path.home() / ".cache" / "finetune")]
    if question.output is not None:
        command += ["--output", str(question.output)]
    if question.base is not None:
        folder = "://" not in question.base
        command += ["--base", f"file://{Path(question.base).resolve()}" if folder else question.base]
    found = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if found.returncode == 0:
        return None
    try:
        return Failure.model_validate(json.loads(found.stderr.splitlines()[-1])["failure"])
    except (IndexError, ValueError, KeyError, TypeError):
        return Failure.of(reason_of(found.returncode) or Reason.UNKNOWN, found.stderr[-2000:])
