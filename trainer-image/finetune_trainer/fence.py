"""Which pod may write a job's checkpoints: the last one that claimed them.

Resuming a suspended job can start a new rank 0 while the old one is still being ended. The marker beside the
checkpoints names the attempt and the pod that write; a pod that finds another name there stops without writing. A run
on one machine has no pod and no marker.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from finetune_trainer.errors import Preempted, StorageUnavailable

MARKER_FILE = ".writer.json"


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes; without a pod there is nobody else."""

    attempt: int = 1
    pod_uid: str = ""

    @classmethod
    def of(cls, value: Any) -> Self | None:
        """Read what `to_dict` returned; None for anything else."""
        try:
            return cls(int(value["attempt"]), str(value["pod"]))
        except (KeyError, TypeError, ValueError):
            return None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"attempt": self.attempt, "pod": self.pod_uid}


def claim(folder: Path, writer: Writer) -> None:
    """Take over the writing of a folder's checkpoints.

    Args:
        folder: Where checkpoints are.
        writer: Who writes from now on.

    Raises:
        Preempted: A later attempt has claimed them.
        StorageUnavailable: The marker cannot be written.
    """  # noqa: DOC503
    if not writer.pod_uid:
        return
    found = _read(folder)
    if found is not None and found.attempt > writer.attempt:
        raise _superseded(folder, found, writer)
    aside = folder / f"{MARKER_FILE}.{writer.pod_uid}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with aside.open("w", encoding="utf-8") as stream:
            json.dump(writer.to_dict(), stream)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(folder / MARKER_FILE)
    except OSError as error:
        raise StorageUnavailable(
            f"{folder}: cannot be written ({error})", remedy="Check space and permissions of the volume."
        ) from error


def check(folder: Path, writer: Writer | None) -> None:
    """Make sure before a write that nobody else has claimed the folder.

    Args:
        folder: Where checkpoints are.
        writer: Who is about to write.

    Raises:
        Preempted: Another pod has; nothing may be written.
    """  # noqa: DOC503
    if writer is None or not writer.pod_uid:
        return
    found = _read(folder)
    if found is not None and found != writer:
        raise _superseded(folder, found, writer)


def _read(folder: Path) -> Writer | None:
    try:
        return Writer.of(json.loads((folder / MARKER_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _superseded(folder: Path, found: Writer, writer: Writer) -> Preempted:
    return Preempted(
        f"{folder}: pod {found.pod_uid} of attempt {found.attempt} writes here now; this one, {writer.pod_uid} of "
        f"attempt {writer.attempt}, stops without writing",
        remedy="Nothing: the other pod goes on from the newest checkpoint.",
    )
