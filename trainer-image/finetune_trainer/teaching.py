"""The teacher of a distillation: loaded like any model, and refused unless it says the same kind of things.

It is given the very input of the trained model, and its scores are compared column by column, so vocabulary, labels
and image settings must be the same.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from finetune_trainer.data.image_settings import ImageSettings
from finetune_trainer.data.processor import Processor
from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.errors import ConfigError
from finetune_trainer.models import load_model
from finetune_trainer.preparation import Prepared
from finetune_trainer.sources import ModelFiles, Places, locate_model
from finetune_trainer.tasks import load_processor

_FIELD = "spec.training.distillation.teacher"
_UNNAMED = ("LABEL_0", "LABEL_1")
_SHOWN = 5


def load_teacher(uri: str, data: Prepared, places: Places) -> nn.Module:
    """Load a teacher for a task.

    Args:
        uri: Its address.
        data: The task, and the processor of the trained model.
        places: Where relative addresses start.

    Returns:
        The model, on the CPU.

    Raises:
        ConfigError: It has other labels, another vocabulary, no trained head, or reads shorter rows.
        ModelNotFound: There is no such model, or it is damaged.
    """  # noqa: DOC503
    files = locate_model(uri, places)
    if not _reads_alike(data.processor, load_processor(data.task.name, files)):
        raise ConfigError(
            f"{_FIELD}: {uri} has another vocabulary or other image settings than the model that is trained",
            remedy="Choose a teacher of the same family, whose tokenizer is the same.",
        )
    wanted = data.task.head.config.get("id2label")
    if wanted is not None and (found := _labels(files)) != list(wanted.values()):
        raise ConfigError(
            f"{_FIELD}: {uri} knows the labels {_listed(found)}, the training rows {_listed(list(wanted.values()))}",
            remedy="Train the teacher on rows with the same labels.",
        )
    loaded = load_model(files, data.task.head, pretrained=True)
    if loaded.new_parameters:
        raise ConfigError(
            f"{_FIELD}: {uri} holds no trained {data.task.head.kind} head ({loaded.new_parameters[0]} is missing)",
            remedy="Fine-tune the teacher for this task first, and give its artifact.",
        )
    config: Any = loaded.model.config
    longest = getattr(config, "max_position_embeddings", None)
    if isinstance(data.processor, Tokenizer) and longest is not None and longest < data.max_length:
        raise ConfigError(
            f"{_FIELD}: {uri} reads at most {longest} tokens, rows have up to {data.max_length}",
            remedy=f"Set data.maxLength: {longest}.",
        )
    return loaded.model


def _reads_alike(mine: Processor, theirs: Processor) -> bool:
    if isinstance(mine, Tokenizer) and isinstance(theirs, Tokenizer):
        return mine.backend.get_vocab() == theirs.backend.get_vocab()
    if isinstance(mine, ImageSettings) and isinstance(theirs, ImageSettings):
        # How many patches a model makes of an image is its own affair.
        return replace(mine, source=Path(), tokens=0) == replace(theirs, source=Path(), tokens=0)
    return dict(mine.fingerprint()) == dict(theirs.fingerprint())


def _labels(files: ModelFiles) -> list[str]:
    """Return the labels that a model's config names; models without names have two."""
    path = files.folder / "config.json"
    named: dict[str, str] | None = json.loads(path.read_text(encoding="utf-8")).get("id2label")
    return [named[key] for key in sorted(named, key=int)] if named else list(_UNNAMED)


def _listed(labels: Sequence[str]) -> str:
    return f"{', '.join(labels[:_SHOWN])}{', ...' if len(labels) > _SHOWN else ''} ({len(labels)})"
