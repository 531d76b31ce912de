"""Images: from the bytes of a file to RGB pixels, by Pillow, which is imported with the first image."""

import io
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from finetune_trainer.data.media import Undecodable

if TYPE_CHECKING:
    from collections.abc import Generator

    from PIL.Image import Image

MAX_PIXELS: Final = 64 * 1024 * 1024
"""A small file may claim any size; this much is 192 MiB decoded."""
Pixels = npt.NDArray[np.uint8]
_ORIENTATION: Final = 0x0112
_SIDEWAYS: Final = frozenset({5, 6, 7, 8})
_DEEP: Final = 256.0
"""What 16 bits are divided by to give 8."""


class ImageDecoder:
    """Upright RGB; what is transparent becomes white, and of an animation the first picture is taken."""

    @property
    def key(self) -> str:
        """Changes with what is decoded."""
        return "image-rgb-1"

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Bytes."""
        return np.dtype(np.uint8)

    def values(self, data: bytes) -> tuple[int, ...]:  # noqa: ARG002
        """No task asks for the colours."""
        return ()

    def shape(self, data: bytes) -> tuple[int, ...]:
        """Return height, width and 3, from the header.

        Args:
            data: The file.

        Returns:
            The shape.

        Raises:
            Undecodable: It is no image, or an endless one.
        """  # noqa: DOC502
        with opened(data) as image:
            sideways = image.getexif().get(_ORIENTATION, 1) in _SIDEWAYS
            return (image.width, image.height, 3) if sideways else (image.height, image.width, 3)

    def decode(self, data: bytes) -> Pixels:
        """Return the pixels, [H, W, 3].

        Args:
            data: The file.

        Returns:
            Values from 0 to 255.

        Raises:
            Undecodable: The file is damaged behind its header.
        """  # noqa: DOC502
        from PIL import ImageOps  # noqa: PLC0415

        with opened(data) as image:
            return np.asarray(_rgb(ImageOps.exif_transpose(image)))


@contextmanager
def opened(data: bytes) -> "Generator[Image]":
    """Open an image; Pillow raises whatever its readers raise."""
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - text does not need it

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Undecodable(f"has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
            yield image
    except UnidentifiedImageError as error:
        raise Undecodable("is no image that is known" if data else "is empty") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, EOFError, IndexError) as error:
        if isinstance(error, Undecodable):
            raise
        raise Undecodable(f"is a damaged image ({error})") from error


def _rgb(image: "Image") -> "Image":
    from PIL import Image  # noqa: PLC0415

    if image.mode.startswith(("I", "F")):
        deep = np.asarray(image, dtype=np.float32) / _DEEP
        image = Image.fromarray(deep.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")
