"""Masks: images whose pixels are class numbers, and what a model says of the images that they belong to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from finetune_trainer.data.image_settings import ImageSettings, image_fields, read_settings
from finetune_trainer.data.images import ImageDecoder, Pixels, opened
from finetune_trainer.data.media import Decoder, Undecodable
from finetune_trainer.errors import ConfigError
from finetune_trainer.sources import ModelFiles

IGNORED: Final = 255
"""The class of pixels that nobody labelled: neither learned nor judged."""
_KINDS = ("Segformer", "Beit", "ViT")


class MaskDecoder:
    """One class number a pixel, as grey or palette images hold it."""

    @property
    def key(self) -> str:
        """Changes with what is decoded."""
        return "mask-1"

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Bytes."""
        return np.dtype(np.uint8)

    def shape(self, data: bytes) -> tuple[int, ...]:
        """Return height and width, from the header."""
        with opened(data) as image:
            return image.height, image.width

    def values(self, data: bytes) -> tuple[int, ...]:
        """Return the class numbers that occur, without `IGNORED`."""
        found = np.flatnonzero(np.bincount(self.decode(data).ravel(), minlength=IGNORED + 1))
        return tuple(each for each in found.tolist() if each != IGNORED)

    def decode(self, data: bytes) -> Pixels:
        """Return the class numbers, [H, W].

        Args:
            data: The file.

        Returns:
            Values from 0 to 255.

        Raises:
            Undecodable: It is no such image, or damaged behind its header.
        """
        with opened(data) as image:
            if image.mode not in {"1", "L", "P", "I", "I;16"}:
                raise Undecodable(f"is an image in colours ({image.mode}), not one class number a pixel")
            found = np.asarray(image)
        if found.max(initial=0) > IGNORED:
            raise Undecodable(f"holds the class {found.max()}, and {IGNORED - 1} is the largest")
        return found.astype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSettings(ImageSettings):
    """How an image and its mask become the model's input; neither is cropped."""

    reduced: bool
    """Whether masks count from 1, and 0 is what nobody labelled."""

    @property
    def decoders(self) -> Mapping[str, Decoder]:
        """Of images and of masks."""
        return {"image": ImageDecoder(), "mask": MaskDecoder()}

    def fingerprint(self) -> Mapping[str, Any]:
        """Tables hold how many pixels of the input are labelled."""
        return {"tokens": self.tokens, "size": self.size, "reduced": self.reduced}

    def classes(self, mask: Pixels) -> Pixels:
        """Return a mask's classes from 0, [H, W]."""
        return np.where(mask == IGNORED, mask, mask - np.uint8(1)) if self.reduced else mask  # 0 becomes 255

    def at_input(self, classes: Pixels) -> Pixels:
        """Return classes in the size of the input, each pixel the nearest one's."""
        from PIL import Image  # noqa: PLC0415 - text does not need it

        size = (self.size[1], self.size[0])
        return np.asarray(Image.fromarray(classes).resize(size, Image.Resampling.NEAREST))

    @classmethod
    def load(cls, files: ModelFiles) -> Self:
        """Read the settings of a model.

        Args:
            files: The model's.

        Returns:
            The settings.

        Raises:
            ModelNotFound: There are none, or none that are known.
            ConfigError: The model reads other images than RGB of one size, or parts of them.
        """  # noqa: DOC503
        found, model = read_settings(files, _KINDS)
        fields = image_fields(files, found, model)
        if fields["resized"] != fields["size"]:
            raise ConfigError(
                f"{files.uri}: images are cropped, and what is cropped has no mask",
                remedy="Give size as height and width, without a crop, in preprocessor_config.json.",
            )
        reduced = bool(found.get("do_reduce_labels", found.get("reduce_labels", False)))
        return cls(**fields, reduced=reduced)
