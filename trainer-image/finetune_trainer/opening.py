"""Open an artifact: its task, processor and model, from its own folder and, for an adapter, from its base."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from finetune_api.uri import parse_uri
from finetune_trainer.checkpoint import verify_manifest
from finetune_trainer.data.processor import Processor
from finetune_trainer.errors import ConfigError
from finetune_trainer.keeping import Kept, read_kept
from finetune_trainer.methods import load_update
from finetune_trainer.models import load_folder, load_model
from finetune_trainer.sources import ModelFiles, Places, locate_model
from finetune_trainer.tasks import load_processor, restore_task
from finetune_trainer.tasks.base import Task

_FORMS = ("full", "merged", "adapter")
"""Those that need nothing else come first."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that can be asked."""

    task: Task
    processor: Processor
    model: nn.Module
    kept: Kept
    base: str
    """Address of the model before training."""
    places: Places

    def untrained(self) -> nn.Module:
        """Load the model before training, for a task that compares with it."""
        return load_model(locate_model(self.base, self.places), self.task.head, pretrained=True).model.eval()


def open_artifact(folder: Path, base: str | None, cache: Path) -> Opened:
    """Read an artifact whose files match its manifest.

    Args:
        folder: The artifact's.
        base: Where its base model is, when not at the address that it names.
        cache: Where fetched models go.

    Returns:
        The model in evaluation mode, and what belongs to it.

    Raises:
        ConfigError: It is no artifact, or a damaged one.
        ModelNotFound: The base is needed and missing.
    """  # noqa: DOC503
    kept = read_kept(folder)
    wrong = verify_manifest(folder)
    if wrong is not None:
        raise ConfigError(f"{folder}: the artifact is damaged: {wrong}", remedy="Copy it again, or train again.")
    form = next((each for each in _FORMS if (folder / each).is_dir()), None)
    if form is None:
        raise ConfigError(f"{folder}: holds no model", remedy=f"Give an artifact with {', '.join(_FORMS)}.")
    places = Places(Path.cwd(), cache, keeps_first=True)
    address = base or _pinned(kept)
    adapter = form == "adapter"
    files = locate_model(address, places) if adapter else ModelFiles(f"file://{folder / form}", folder / form)
    processor = load_processor(kept.spec.task, files)
    task = restore_task(kept.spec, kept.learned, processor)
    model = _with_update(kept, task, files, folder / form) if adapter else load_folder(files.folder, task.head).eval()
    return Opened(task, processor, model, kept, address, places)


def _with_update(kept: Kept, task: Task, files: ModelFiles, folder: Path) -> nn.Module:
    loaded = load_model(files, task.head, pretrained=True, dropout=kept.spec.training.dropout)
    return load_update(kept.spec.method, loaded, folder).eval()


def _pinned(kept: Kept) -> str:
    """Return the base's address, at the very commit that was trained."""
    uri = parse_uri(kept.spec.model.uri)
    return str(replace(uri, revision=kept.revision)) if kept.revision else kept.spec.model.uri
