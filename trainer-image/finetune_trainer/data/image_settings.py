"""What a model says of its images: size, crop and normalisation, read from `preprocessor_config.json`.

The classes of transformers take seconds to import and need torchvision to be quick; this is their arithmetic on
Pillow's resize, and a test compares the pixels of both.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from finetune_trainer.data.images import ImageDecoder, Pixels
from finetune_trainer.data.media import Decoder
from finetune_trainer.data.tokenizer import copy_files
from finetune_trainer.errors import ConfigError, ModelNotFound
from finetune_trainer.sources import ModelFiles

_FILE, _MODEL = "preprocessor_config.json", "config.json"
_KINDS = ("ViT", "DeiT", "ConvNext", "CLIP", "Bit", "SiglipImage")
_INSIDE = ("vision_config", "encoder")
"""Where the config of a model of several parts says what its images are."""
_NO_CROP_FROM = 384
_CONVNEXT_CROP = 224 / 256
_DEFAULT_PATCH = 16
Box = tuple[float, float, float, float]
Side = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """How an image becomes the model's input; sizes are height and width."""

    size: Side
    """Of the input."""
    resized: Side | int
    """What an image is resized to before its middle is cropped; an int is the shorter side."""
    resample: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tokens: int
    """Patches that a transformer makes of an image; for convolutions those of 16 x 16 pixels, as a measure of work."""
    source: Path

    @property
    def decoders(self) -> Mapping[str, Decoder]:
        """Images alone."""
        return {"image": ImageDecoder()}

    @property
    def model_max_length(self) -> int | None:
        """Every image is equally long."""
        return self.tokens

    def fingerprint(self) -> Mapping[str, Any]:
        """Tables hold no pixels: the length is all that the settings decide of them."""
        return {"tokens": self.tokens}

    def save(self, folder: Path) -> None:
        """Copy the model's own file."""
        copy_files(self.source, folder, (_FILE,))

    def whole(self, pixels: Pixels) -> Pixels:
        """Return an image as it is judged: resized, and its middle, [H, W, 3]."""
        height, width = pixels.shape[:2]
        if isinstance(self.resized, int):
            short, long = sorted((height, width))
            longer = int(self.resized * long / short)
            target = (self.resized, longer) if height <= width else (longer, self.resized)
        else:
            target = self.resized
        resized = self.resize(pixels, target)
        top, left = ((target[side] - self.size[side]) // 2 for side in (0, 1))
        return resized[top : top + self.size[0], left : left + self.size[1]]

    def part(self, pixels: Pixels, box: Box) -> Pixels:
        """Return a part of an image (left, top, right, bottom) in the size of the input, [H, W, 3]."""
        return self.resize(pixels, self.size, box)

    def normalised(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Return pixels as the model reads them, [3, H, W]."""
        scale = np.asarray(self.scale / np.asarray(self.std), dtype=np.float32)
        shift = np.asarray(np.asarray(self.mean) / np.asarray(self.std), dtype=np.float32)
        return np.ascontiguousarray((pixels * scale - shift).transpose(2, 0, 1))

    def resize(self, pixels: Pixels, target: Side, box: Box | None = None) -> Pixels:
        """Return an image, or a part of it, in another size, [H, W, 3]."""
        if box is None and target == pixels.shape[:2]:
            return pixels
        from PIL import Image  # noqa: PLC0415 - text does not need it

        image = Image.fromarray(pixels).resize((target[1], target[0]), Image.Resampling(self.resample), box)
        return np.asarray(image)

    @classmethod
    def load(cls, files: ModelFiles) -> Self:
        """Read the settings of a model.

        Args:
            files: The model's.

        Returns:
            The settings.

        Raises:
            ModelNotFound: There are none, or none that are known.
            ConfigError: The model reads other images than RGB of one size.
        """  # noqa: DOC502
        found, model = read_settings(files, _KINDS)
        return cls(**image_fields(files, found, model))


def image_fields(files: ModelFiles, found: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `ImageSettings` for images that are all equally large.

    Args:
        files: The model's.
        found: What they say of images.
        model: The model's config.

    Returns:
        The fields by name.

    Raises:
        ConfigError: The images are not equally large, or not as the model needs them.
    """
    resized, size = _sizes(found, convnext=kind_of(found).startswith("ConvNext"))
    patch = model.get("patch_size")
    # Convolutions take any size, whatever stands in their config.
    positioned = isinstance(patch, int) and "num_attention_heads" in model
    if positioned and model.get("image_size", size[0]) not in (size[0], list(size)):
        raise ConfigError(
            f"{files.uri}: the model reads images of {model['image_size']} pixels, its processor gives {size}",
            remedy="Correct size and crop_size in preprocessor_config.json.",
        )
    patch = patch if positioned and isinstance(patch, int) else _DEFAULT_PATCH
    return {
        "size": size,
        "resized": resized,
        "tokens": max(1, size[0] // patch) * max(1, size[1] // patch) + 1,
        "source": files.folder,
        **arithmetic(found),
    }


def read_settings(files: ModelFiles, kinds: tuple[str, ...]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Read what a model's files say of its images, and its config.

    Args:
        files: The model's.
        kinds: How the names of image processors that are known begin.

    Returns:
        The settings and the config.

    Raises:
        ModelNotFound: There are none, or none that are known.
        ConfigError: The model reads other images than RGB.
    """
    try:
        found = json.loads((files.folder / _FILE).read_text(encoding="utf-8"))
        model = json.loads((files.folder / _MODEL).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelNotFound(
            f"{files.uri}: no usable {_FILE} ({error})",
            remedy="Copy the model with its image processor; AutoImageProcessor's save_pretrained writes the file.",
        ) from error
    model = next((model[part] for part in _INSIDE if isinstance(model.get(part), dict)), model)
    if not kind_of(found).startswith(kinds):
        raise ModelNotFound(
            f"{files.uri}: images of the kind {kind_of(found)} are not known here",
            remedy=f"Known are {', '.join(kinds)}.",
        )
    if model.get("num_channels", 3) != 3:
        raise ConfigError(f"{files.uri}: the model reads no RGB images", remedy="Choose one with three channels.")
    return found, model


def kind_of(found: Mapping[str, Any]) -> str:
    """Return the name of an image processor's class."""
    return str(found.get("image_processor_type") or found.get("feature_extractor_type"))


def arithmetic(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return how pixels become numbers, as the fields of `ImageSettings` for it."""
    normalised = found.get("do_normalize", True)
    return {
        "resample": int(found.get("resample", 2)),
        "scale": float(found.get("rescale_factor", 1 / 255)) if found.get("do_rescale", True) else 1.0,
        "mean": tuple(found["image_mean"]) if normalised else (0.0, 0.0, 0.0),
        "std": tuple(found["image_std"]) if normalised else (1.0, 1.0, 1.0),
    }


def _sizes(found: Mapping[str, Any], *, convnext: bool) -> tuple[Side | int, Side]:
    """Return what images are resized to, and the size of the model's input."""
    given = found.get("size")
    size: Mapping[str, Any] = {"height": given, "width": given} if isinstance(given, int) else given or {}
    if convnext and "shortest_edge" in size:
        edge = int(size["shortest_edge"])
        small = edge < _NO_CROP_FROM
        return (int(edge / found.get("crop_pct", _CONVNEXT_CROP)) if small else (edge, edge)), (edge, edge)
    resized = int(size["shortest_edge"]) if "shortest_edge" in size else _side(size)
    target = _side(found.get("crop_size")) if found.get("do_center_crop") else _side(size)
    least = _side(resized) if isinstance(resized, int) else resized
    if (
        resized is None
        or target is None
        or least is None
        or not found.get("do_resize", True)
        or any(np.array(target) > least)
    ):
        raise ConfigError(
            f"images of the size {found.get('size')}, cropped to {found.get('crop_size')}, are not all equally large",
            remedy="Give size as height and width, or crop_size that is no larger, in preprocessor_config.json.",
        )
    return resized, target


def _side(size: Any) -> Side | None:
    if isinstance(size, Mapping):
        return (int(size["height"]), int(size["width"])) if {"height", "width"} <= set(size) else None
    return (size, size) if isinstance(size, int) else None
