"""What a fusion of encoders reads: a tokenizer, image settings, a feature extractor, each from a subfolder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from finetune_trainer.data.image_settings import ImageSettings
from finetune_trainer.data.media import Decoder
from finetune_trainer.data.processor import Processor
from finetune_trainer.data.speech import SpeechProcessor
from finetune_trainer.data.tokenizer import Tokenizer, copy_files, load_tokenizer
from finetune_trainer.errors import ConfigError, ModelNotFound
from finetune_trainer.sources import FUSION, ModelFiles

TEXT, IMAGE, AUDIO = "text", "image", "audio"
PARTS = (TEXT, IMAGE, AUDIO)
_CONFIG = "config.json"
_LONGEST_TEXT = 512


@dataclass(frozen=True)
class Modalities:
    """The parts that there are, each with what turns rows into its encoder's input."""

    folder: Path
    tokenizer: Tokenizer | None
    images: ImageSettings | None
    sounds: SpeechProcessor | None

    @cached_property
    def parts(self) -> Mapping[str, Processor]:
        """By name, always in the same order."""
        found = zip(PARTS, (self.tokenizer, self.images, self.sounds), strict=True)
        return {name: each for name, each in found if each is not None}

    @property
    def decoders(self) -> Mapping[str, Decoder]:
        """Of images and sounds."""
        return {name: decoder for each in self.parts.values() for name, decoder in each.decoders.items()}

    @property
    def model_max_length(self) -> int | None:
        """Longest text in tokens; sounds have the limit of their own encoder."""
        if self.tokenizer is None:
            return None
        positions = _read(self.folder / TEXT / _CONFIG).get("max_position_embeddings")
        return min(each for each in (self.tokenizer.model_max_length, positions, _LONGEST_TEXT) if each)

    def fingerprint(self) -> Mapping[str, Any]:
        """Return what decides tokens and lengths, per part."""
        return {name: dict(each.fingerprint()) for name, each in self.parts.items()}

    def save(self, folder: Path) -> None:
        """Write every part's files into its subfolder, with the encoder's config, which they are read with."""
        for name, each in self.parts.items():
            (folder / name).mkdir()
            each.save(folder / name)
            copy_files(self.folder / name, folder / name, (_CONFIG,))

    def architectures(self) -> Mapping[str, Any]:
        """Return each encoder's config of transformers, under the name that the fusion's config has for it."""
        from finetune_trainer.lean import AutoConfig  # noqa: PLC0415 - tables are made without it

        found: dict[str, Any] = {}
        for name in self.parts:
            config: Any = AutoConfig.from_pretrained(str(self.folder / name), local_files_only=True)
            if hasattr(config, "layerdrop"):
                config.layerdrop = 0.0  # a row's loss would depend on the pass that it is in
            found[f"{name}_config"] = config
        return found

    @classmethod
    def load(cls, files: ModelFiles) -> Self:
        """Read a model's folder.

        Args:
            files: The model's.

        Returns:
            Its parts.

        Raises:
            ModelNotFound: It is no fusion of encoders, or one of them is damaged.
            ConfigError: It has no encoder.
        """
        kind = _read(files.folder / _CONFIG).get("model_type")
        if kind != FUSION:
            raise ModelNotFound(
                f"{files.uri}: a {kind} model is no fusion of encoders",
                remedy=f'Make a folder with config.json {{"model_type": "{FUSION}", "fusion": "late"}} and an encoder '
                "in each of its subfolders text, image and audio, as many as the rows have.",
            )
        here = {name: ModelFiles(f"{files.uri}/{name}", files.folder / name) for name in PARTS}
        there = [name for name in PARTS if (files.folder / name / _CONFIG).exists()]
        if not there:
            raise ConfigError(
                f"{files.uri}: no encoder in the subfolders {', '.join(PARTS)}",
                remedy="Put a model's folder, with config.json, into one of them.",
            )
        return cls(
            files.folder,
            load_tokenizer(here[TEXT].folder) if TEXT in there else None,
            ImageSettings.load(here[IMAGE]) if IMAGE in there else None,
            SpeechProcessor(here[AUDIO], writes=False) if AUDIO in there else None,
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelNotFound(f"{file}: missing or damaged ({error})", remedy="Copy the model again.") from error
