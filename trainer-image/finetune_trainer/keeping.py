"""What an artifact says of its task besides weights: the manifest, what was learned from the rows, the longest row.

It is written as `task.json` beside the model, so that the model can be asked without the data it was trained on.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.names import TASK_FILE
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.errors import ConfigError
from finetune_trainer.tasks.base import Keeping, Task

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Kept:
    """What `task.json` holds."""

    spec: FineTuneJobSpec
    learned: Mapping[str, Any]
    max_length: int
    revision: str | None
    """The commit of a base model that was fetched."""


def learned_by(task: Task) -> Mapping[str, Any]:
    """Return what a task learned from the training rows; nothing for one that is made from the manifest alone."""
    return task.kept() if isinstance(task, Keeping) else {}


def write_kept(folder: Path, kept: Kept) -> None:
    """Write `task.json`."""
    document = {
        "version": _VERSION,
        "spec": kept.spec.to_dict(),
        "learned": kept.learned,
        "maxLength": kept.max_length,
        "revision": kept.revision,
    }
    (folder / TASK_FILE).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_kept(folder: Path) -> Kept:
    """Read `task.json` of an artifact.

    Args:
        folder: The artifact's.

    Returns:
        What it holds.

    Raises:
        ConfigError: It is missing, damaged or of another version.
    """
    try:
        found: Any = json.loads((folder / TASK_FILE).read_text(encoding="utf-8"))
        if found["version"] != _VERSION:
            raise ConfigError(
                f"{folder}: {TASK_FILE} has version {found['version']}, this program reads {_VERSION}",
                remedy="Use the version of finetune that made the artifact.",
            )
        spec = FineTuneJobSpec.model_validate(found["spec"])
        return Kept(spec, found["learned"], int(found["maxLength"]), found["revision"])
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder}: holds no {TASK_FILE}",
            remedy="Give the folder that `finetune run` calls the artifact; older ones must be made again.",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder}: {TASK_FILE} is damaged ({error})", remedy="Copy the artifact again.") from error
