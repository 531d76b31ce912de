"""Hand the model over: weights in safetensors, tokenizer or processor, card, and a manifest with the sha256 of all.

An artifact is written aside, loaded back and compared, and only then renamed to its place: there is no half of one.
"""

import contextlib
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune_api.method_types import OWN_WEIGHTS
from finetune_api.names import EVALUATION_DIR
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.checkpoint import sync_folder, write_manifest
from finetune_trainer.data.processor import Processor
from finetune_trainer.errors import StorageUnavailable, TrainerError
from finetune_trainer.keeping import Kept, learned_by, write_kept
from finetune_trainer.methods import Prepared, load_update
from finetune_trainer.methods.base import Update
from finetune_trainer.models import load_folder, load_model, save_folder
from finetune_trainer.runtime import Decision
from finetune_trainer.sources import ModelFiles
from finetune_trainer.tasks.base import Batch, Task

MERGE_TOLERANCE = 2e-4
"""Largest difference of a score between the trained model and one whose weights were added up, as when merged, relative
to the largest score: float32 rounding."""
LOAD_TOLERANCE = 1e-6
"""The same for the very weights: a product with one output sums in an order that depends on where these lie."""


@dataclass(frozen=True, slots=True)
class Handover:
    """What an artifact is made from."""

    spec: FineTuneJobSpec
    task: Task
    files: ModelFiles
    processor: Processor
    prepared: Prepared
    sample: Batch
    card: str
    max_length: int
    """Most tokens of a row."""
    evaluation: Path | None
    """Folder with predictions and report, None without held-out rows."""


def default_formats(spec: FineTuneJobSpec) -> Sequence[str]:
    """Return the forms to write: those of the manifest, else adapter, or full."""
    return spec.output.formats or (["full"] if spec.method.type in OWN_WEIGHTS else ["adapter"])


def write_artifact(handover: Handover, place: Path, on_check: Callable[[Decision], None]) -> str:
    """Write, check and publish an artifact.

    Args:
        handover: What it is made from.
        place: Its folder; an older artifact there is replaced.
        on_check: Told the finding of each comparison.

    Returns:
        The sha256 of its manifest.

    Raises:
        StorageUnavailable: It cannot be written.
        TrainerError: What was loaded back gives other scores; nothing is published.
    """  # noqa: DOC503
    aside = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    try:
        aside.mkdir(parents=True)
        handover.prepared.model.eval()
        with torch.no_grad():
            expected = _scores(handover.prepared.model, handover.sample)
            for form in default_formats(handover.spec):
                folder = aside / form
                _WRITERS[form](handover, folder)
                if form != "adapter":
                    handover.processor.save(folder)
                found = _scores(_LOADERS[form](handover, folder), handover.sample)
                on_check(_compare(form, expected, found, _allowed(form, handover.prepared)))
            if "adapter" in default_formats(handover.spec):
                handover.processor.save(aside / "adapter")
        (aside / "README.md").write_text(handover.card, encoding="utf-8")
        learned = learned_by(handover.task)
        write_kept(aside, Kept(handover.spec, learned, handover.max_length, handover.files.revision))
        digest = write_manifest(aside)
        if handover.evaluation is not None:
            # Not in the manifest: it holds rows of the data, and may be deleted before the model is given away.
            shutil.copytree(handover.evaluation, aside / EVALUATION_DIR)
        if place.exists():
            shutil.rmtree(place)
        aside.rename(place)
        sync_folder(place.parent)
    except OSError as error:
        raise StorageUnavailable(
            f"{place}: the artifact cannot be written ({error})", remedy="Free space, or choose another output.uri."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(aside, ignore_errors=True)
    return digest


def _scores(model: nn.Module, sample: Batch) -> Tensor:
    """Return everything that a model computes for a batch, as one vector."""
    outputs = model(**sample.inputs()).values()
    return torch.cat([each.float().flatten() for each in outputs if isinstance(each, Tensor)])


def _allowed(form: str, prepared: Prepared) -> float:
    converted = form == "adapter" and prepared.update is not None and not prepared.update.exact
    return MERGE_TOLERANCE if form == "merged" or converted else LOAD_TOLERANCE


def _compare(form: str, expected: Tensor, found: Tensor, allowed: float) -> Decision:
    difference = float((expected - found).abs().max() / expected.abs().max().clamp(min=1.0))
    if not difference <= allowed:
        raise TrainerError(
            f"the {form} artifact was loaded back and its scores differ by {difference:.1e}, {allowed:.0e} is allowed",
            remedy="Report this with the manifest; nothing was handed over.",
        )
    told = "bit for bit" if difference == 0.0 else f"within {difference:.0e}"
    return Decision("artifact", f"{form} verified", f"loaded back, its scores are the trained model's {told}")


def _write_adapter(handover: Handover, folder: Path) -> None:
    _update(handover).save(folder, handover.files.uri)


def _write_merged(handover: Handover, folder: Path) -> None:
    base: Any = handover.prepared.model
    save_folder(base, folder, _update(handover).merged())


def _update(handover: Handover) -> Update:
    update = handover.prepared.update
    assert update is not None, "internal: the contract's rules let this format through"
    return update


def _write_full(handover: Handover, folder: Path) -> None:
    model: Any = handover.prepared.model
    save_folder(model, folder)


def _load_adapter(handover: Handover, folder: Path) -> nn.Module:
    pretrained = handover.spec.model.weights == "pretrained"
    base = load_model(handover.files, handover.task.head, pretrained=pretrained, dropout=handover.spec.training.dropout)
    return load_update(handover.spec.method, base, folder).eval()


def _load_plain(handover: Handover, folder: Path) -> nn.Module:
    return load_folder(folder, handover.task.head).eval()


_WRITERS: Mapping[str, Callable[[Handover, Path], None]] = {
    "adapter": _write_adapter,
    "merged": _write_merged,
    "full": _write_full,
}
_LOADERS: Mapping[str, Callable[[Handover, Path], nn.Module]] = {
    "adapter": _load_adapter,
    "merged": _load_plain,
    "full": _load_plain,
}
