"""What a model of images and texts reads: both by its own files, whose settings its config holds per part."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from finetune_trainer.data.image_settings import ImageSettings
from finetune_trainer.data.media import Decoder
from finetune_trainer.data.tokenizer import Tokenizer, load_tokenizer
from finetune_trainer.sources import ModelFiles

IMAGE = "image"
_TEXT_PARTS = ("text_config", "decoder")


@dataclass(frozen=True)
class ImageTextProcessor:
    """Image settings and a tokenizer."""

    images: ImageSettings
    tokenizer: Tokenizer
    config: Mapping[str, Any]
    """Of the model."""

    @property
    def decoders(self) -> Mapping[str, Decoder]:
        """Images; text needs none."""
        return self.images.decoders

    @property
    def model_max_length(self) -> int | None:
        """Longest text in tokens."""
        limits = [each for each in (self.tokenizer.model_max_length, self.positions) if each]
        return min(limits) if limits else None

    @cached_property
    def text_config(self) -> Mapping[str, Any]:
        """What the config says of the part that reads or writes texts."""
        return next((self.config[part] for part in _TEXT_PARTS if isinstance(self.config.get(part), dict)), {})

    @property
    def positions(self) -> int | None:
        """Tokens that the part for texts has positions for, when its config says so."""
        return self.text_config.get("max_position_embeddings") or self.text_config.get("n_positions")

    def fingerprint(self) -> Mapping[str, Any]:
        """Return what decides lengths and tokens."""
        return {**self.images.fingerprint(), **self.tokenizer.fingerprint()}

    def save(self, folder: Path) -> None:
        """Write both beside a model's weights."""
        self.images.save(folder)
        self.tokenizer.save(folder)

    @classmethod
    def load(cls, files: ModelFiles) -> Self:
        """Read a model's files.

        Args:
            files: The model's.

        Returns:
            What it reads.

        Raises:
            ModelNotFound: One of the two is missing or damaged.
            ConfigError: The model reads other images than RGB of one size.
        """  # noqa: DOC502
        images = ImageSettings.load(files)
        config = json.loads((files.folder / "config.json").read_text(encoding="utf-8"))
        return cls(images, load_tokenizer(files.folder), config)
