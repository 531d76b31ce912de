"""What turns rows into a model's input, as the model's own files say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from finetune_trainer.data.media import Decoder


class Processor(Protocol):
    """A tokenizer, what a model says of its images or sounds, or several of these."""

    @property
    def decoders(self) -> Mapping[str, Decoder]:
        """By the part of an example that each decodes; none for text."""
        ...

    @property
    def model_max_length(self) -> int | None:
        """Longest row in tokens that the model's files allow; None when they say nothing."""
        ...

    def fingerprint(self) -> Mapping[str, Any]:
        """Return what decides the encoding, for the cache's key."""
        ...

    def save(self, folder: Path) -> None:
        """Write it beside a model's weights, so that it is found there."""
        ...
