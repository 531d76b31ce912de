"""Augmentation of images: a function of (seed, epoch, row), so that workers, passes and restarts change nothing.

Mixing takes its partner from the whole set and not from the batch: a row's input then never depends on its neighbours.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune_api.spec import Augmentation
from finetune_trainer.data.image_settings import Box, ImageSettings
from finetune_trainer.data.images import Pixels
from finetune_trainer.data.media import MediaColumn

_RATIOS = (3 / 4, 4 / 3)
_TRIES = 10
_HALF = 0.5


@dataclass(frozen=True, slots=True)
class View:
    """An input as it is trained on: pixels [3, H, W], and the row whose label has the part `1 - share` of it."""

    pixels: npt.NDArray[np.float32]
    partner: int
    share: float = 1.0
    """Part of the row's own label."""


def is_mirrored(seed: int, epoch: int, row: int) -> bool:
    """Tell whether an epoch shows a row mirrored, left to right, where nothing else is changed."""
    return bool(np.random.default_rng((seed, epoch, row)).random() < _HALF)


def view(column: MediaColumn, settings: ImageSettings, wanted: Augmentation, row: int, seed: tuple[int, int]) -> View:
    """Return a row as one epoch sees it.

    Args:
        column: The images.
        settings: The model's.
        wanted: What is changed.
        row: The row's number.
        seed: The run's seed, and the epoch.

    Returns:
        The view.
    """
    rng = np.random.default_rng((*seed, row))
    own = settings.normalised(_cropped(column.decoded(row), settings, wanted, rng))
    kinds = [kind for kind in ("mixup", "cutmix") if getattr(wanted, kind) is not None]
    if not kinds:
        return View(own, row)
    kind = kinds[int(rng.integers(len(kinds)))]
    partner = int(rng.integers(len(column.sources)))
    other = settings.normalised(_cropped(column.decoded(partner), settings, wanted, rng))
    strength = float(getattr(wanted, kind))
    share = float(rng.beta(strength, strength))
    if kind == "mixup":
        mixed: npt.NDArray[np.float32] = (share * own + (1.0 - share) * other).astype(np.float32)
        return View(mixed, partner, share)
    rows, columns = own.shape[1:]
    height, width = (round(side * math.sqrt(1.0 - share)) for side in (rows, columns))
    top, left = int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1))
    own[:, top : top + height, left : left + width] = other[:, top : top + height, left : left + width]
    return View(own, partner, 1.0 - height * width / (rows * columns))


def _cropped(pixels: Pixels, settings: ImageSettings, wanted: Augmentation, rng: np.random.Generator) -> Pixels:
    if wanted.crop is None:
        found = settings.whole(pixels)
    else:
        found = settings.part(pixels, random_box(pixels.shape[0], pixels.shape[1], wanted.crop, rng))
    return found[:, ::-1] if wanted.flip and rng.random() < _HALF else found


def random_box(height: int, width: int, least: float, rng: np.random.Generator) -> Box:
    """Draw a part of an image: of its area at least `least`, its sides between 3:4 and 4:3 (Szegedy et al. 2015).

    Args:
        height: Of the image.
        width: Of the image.
        least: Smallest part of the area.
        rng: What draws.

    Returns:
        Left, top, right and bottom; the whole image when ten draws do not fit into it.
    """
    for _ in range(_TRIES):
        area = height * width * rng.uniform(least, 1.0)
        ratio = math.exp(rng.uniform(math.log(_RATIOS[0]), math.log(_RATIOS[1])))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
            return (left, top, left + wide, top + high)
    return (0, 0, width, height)
