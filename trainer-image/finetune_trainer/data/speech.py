"""What a speech model reads: sounds through the model's own feature extractor, and tokens or letters.

Two kinds are known: models that read samples through convolutions (wav2vec2, HuBERT, WavLM and their relatives), whose
rows are as long as their sounds, and models that read a window of fixed length (Whisper, AST).
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.data.letters import Letters, letters_of, load_letters
from finetune_trainer.data.media import Decoder
from finetune_trainer.data.sounds import Samples, SoundDecoder
from finetune_trainer.data.tokenizer import Tokenizer, copy_files, load_tokenizer
from finetune_trainer.errors import ConfigError, ModelNotFound
from finetune_trainer.sources import ModelFiles

AUDIO = "audio"
_SETTINGS = "preprocessor_config.json"
_FILES = (_SETTINGS, "processor_config.json")
_MOST_FRAMES = 2048


class SpeechProcessor:
    """A model's feature extractor, and what it writes with: a tokenizer, letters, or nothing."""

    def __init__(self, files: ModelFiles, *, writes: bool) -> None:
        """Read the model's files.

        Args:
            files: Of the model.
            writes: Whether texts are learned, rather than labels.

        Raises:
            ModelNotFound: The config or the extractor's settings are missing or damaged.
            ConfigError: The model reads neither samples nor a fixed window.
        """  # noqa: DOC503
        self._folder = files.folder
        self.config = _read(files, "config.json")
        self._settings = _read(files, _SETTINGS)
        self.rate_hz = int(self._settings.get("sampling_rate", 16000))
        if not self.reads_samples and self.window is None:
            raise ConfigError(
                f"{files.uri}: a {self.config.get('model_type')} model reads neither samples nor a fixed window",
                remedy="Choose a wav2vec2, HuBERT, WavLM, Whisper or AST model.",
            )
        self.writes_tokens = writes and bool(self.config.get("is_encoder_decoder"))
        self.tokenizer: Tokenizer | None = load_tokenizer(files.folder) if self.writes_tokens else None
        self.letters: Letters | None = load_letters(files.folder) if writes and not self.writes_tokens else None

    def learn_letters(self, texts: Sequence[str]) -> Letters:
        """Return the model's letters, or take those of texts when it has none."""
        if self.letters is None:
            self.letters = letters_of(texts)
        return self.letters

    @property
    def reads_samples(self) -> bool:
        """Whether convolutions read the samples, so that a row is as long as its sound."""
        return bool(self.config.get("conv_kernel")) and not self.config.get("add_adapter")

    @property
    def window(self) -> int | None:
        """Samples that the model always reads; None for models that read a sound as long as it is."""
        if "chunk_length" in self._settings:
            return int(self._settings["chunk_length"]) * self.rate_hz
        if not self.reads_samples and "num_mel_bins" in self._settings:
            return int(self._settings.get("max_length", 1024)) * self.rate_hz // 100
        return None

    def frames(self, samples: int) -> int:
        """Return how many frames the model makes of samples; 0 or less when there are too few for one."""
        if not self.reads_samples:
            return int(self.config.get("max_source_positions") or 1024)
        for kernel, stride in zip(self.config["conv_kernel"], self.config["conv_stride"], strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    def longest(self, max_frames: int) -> int:
        """Return how many samples a row may have."""
        return self.window or max_frames * int(np.prod(self.config["conv_stride"]))

    @property
    def shortest(self) -> int:
        """Samples of the shortest sound that makes a frame; a tenth of a second where a window is filled up."""
        if not self.reads_samples:
            return self.rate_hz // 10
        samples = 1
        for kernel, stride in zip(self.config["conv_kernel"][::-1], self.config["conv_stride"][::-1], strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    def hear(self, samples: Samples) -> npt.NDArray[np.float32]:
        """Return what the model reads of a sound: samples [N], or a spectrogram as the model wants it."""
        found = self._extractor(np.asarray(samples), sampling_rate=self.rate_hz, return_tensors="np")
        return np.asarray(found[self.input_name][0], dtype=np.float32)

    @property
    def input_name(self) -> str:
        """The argument of the model that takes what was heard."""
        return str(self._extractor.model_input_names[0])

    @property
    def decoders(self) -> Mapping[str, Decoder]:
        """Sounds at the model's rate."""
        return {AUDIO: SoundDecoder(self.rate_hz)}

    @property
    def model_max_length(self) -> int | None:
        """Tokens that a decoder writes, frames that an encoder reads."""
        if self.tokenizer is not None:
            return int(self.config.get("max_target_positions") or 0) or self.tokenizer.model_max_length
        return _MOST_FRAMES

    def fingerprint(self) -> Mapping[str, Any]:
        """Return what decides frames and tokens."""
        layers = [self.config.get(name) for name in ("conv_kernel", "conv_stride", "max_source_positions")]
        letters = dict(self.letters.numbers) if self.letters else None
        tokens = self.tokenizer.fingerprint() if self.tokenizer else None
        return {"rate": self.rate_hz, "window": self.window, "layers": layers, "letters": letters, "tokens": tokens}

    def save(self, folder: Path) -> None:
        """Write the extractor's settings as they were, and the tokenizer or the letters."""
        copy_files(self._folder, folder, _FILES)
        if self.tokenizer is not None:
            self.tokenizer.save(folder)
        if self.letters is not None:
            self.letters.save(folder)

    @cached_property
    def _extractor(self) -> Any:
        from transformers import AutoFeatureExtractor  # noqa: PLC0415 - tables are made without it

        return AutoFeatureExtractor.from_pretrained(str(self._folder), local_files_only=True)


def _read(files: ModelFiles, name: str) -> dict[str, Any]:
    try:
        return json.loads((files.folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelNotFound(
            f"{files.uri}: {name} is missing or damaged ({error})",
            remedy="Give the whole folder of a speech model, with its preprocessor_config.json.",
        ) from error
