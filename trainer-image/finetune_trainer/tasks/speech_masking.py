"""SpecAugment (Park et al. 2019): stretches of time and of features that the model does not hear while training.

Models of transformers draw them from NumPy's global generator. Here they are a function of seed, epoch and row: the
same for any number of workers and after a resume, new in every epoch, and absent while judging. How much is hidden is
what the model's config says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Hidden = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Stretches:
    """Stretches of `length`, which hide about `probability` of an axis, and `least` of them at the least."""

    probability: float
    length: int
    least: int

    def choose(self, size: int, rng: np.random.Generator) -> Hidden:
        """Return what is hidden of an axis, [size]; nothing when it is shorter than a stretch."""
        hidden = np.zeros(size, dtype=np.bool_)
        if self.probability == 0.0 or size < self.length:
            return hidden
        wanted = max(int(self.probability * size / self.length + rng.random()), self.least)
        starts = rng.choice(size - self.length + 1, min(wanted, size // self.length), replace=False)
        hidden[(starts[:, None] + np.arange(self.length)).reshape(-1)] = True
        return hidden


@dataclass(frozen=True, slots=True)
class Masking:
    """What is hidden in time and in features."""

    time: Stretches
    features: Stretches
    seed: int

    def draw(self, row: int, epoch: int, frames: int, width: int) -> tuple[Hidden, Hidden]:
        """Return what is hidden of a row's frames, [frames], and of its features, [width]."""
        rng = np.random.default_rng((self.seed, epoch, row))
        return self.time.choose(frames, rng), self.features.choose(width, rng)


def masking_of(config: Mapping[str, Any], seed: int) -> Masking | None:
    """Read a model's config; None when it hides nothing.

    Args:
        config: Of the model; wav2vec2's defaults stand for what it leaves out.
        seed: The run's.

    Returns:
        The masking.
    """
    if not config.get("apply_spec_augment", "conv_kernel" in config):
        return None
    time, features = (
        Stretches(
            float(config.get(f"mask_{axis}_prob", share)),
            int(config.get(f"mask_{axis}_length", 10)),
            int(config.get(f"mask_{axis}_min_masks", least)),
        )
        for axis, share, least in (("time", 0.05, 2), ("feature", 0.0, 0))
    )
    return Masking(time, features, seed) if time.probability or features.probability else None
