"""Images and sounds of rows as small pictures: thumbnails, and spectrograms of sounds."""

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.data.images import Pixels

_SIDE = 112
_SMALL = 64
"""Images up to this side are kept as they are, and shown larger."""
_QUALITY = 80
_WINDOW, _BINS, _COLUMNS = 512, 128, 256
_FLOOR_DB = -80.0


def data_uri(pixels: Pixels) -> str:
    """Return an image as an address that holds it, at most some kilobytes.

    Args:
        pixels: [H, W, 3].

    Returns:
        PNG of a small image, else JPEG of its thumbnail.
    """
    from PIL import Image  # noqa: PLC0415 - text does not need it

    image = Image.fromarray(pixels)
    small = max(image.size) <= _SMALL
    image.thumbnail((_SIDE, _SIDE))
    out = io.BytesIO()
    image.save(out, "PNG") if small else image.save(out, "JPEG", quality=_QUALITY)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def spectrogram_uri(pixels: Pixels) -> str:
    """Return a spectrogram as an address that holds it: PNG, since its edges matter."""
    from PIL import Image  # noqa: PLC0415

    out = io.BytesIO()
    Image.fromarray(pixels).quantize(64).save(out, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def spectrogram(samples: npt.NDArray[np.float32]) -> Pixels:
    """Return how loud each pitch is over time.

    Args:
        samples: One channel, [N].

    Returns:
        [128, up to 256, 3]: time to the right, pitch from 0 at the bottom to half the rate at the top; dark is 80 dB
        below the loudest.
    """
    hop = max(_WINDOW // 4, -(-len(samples) // _COLUMNS))
    padded = np.pad(samples, (0, _WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[: max(1, len(samples)) : hop]
    loud_TF = np.abs(np.fft.rfft(frames * np.hanning(_WINDOW).astype(np.float32), axis=1))[:, 1:]
    bins_TB = loud_TF.reshape(len(loud_TF), _BINS, -1).max(axis=2)
    peak = max(float(bins_TB.max()), 1e-12)
    decibels_TB = 20.0 * np.log10(np.maximum(bins_TB / peak, 1e-12))
    shade_BT = np.clip(1.0 - decibels_TB.T[::-1] / _FLOOR_DB, 0.0, 1.0)
    return _coloured(shade_BT)


def _coloured(shade: npt.NDArray[Any]) -> Pixels:
    """Return black over violet and orange to white."""
    stops = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 220]], dtype=np.float64)
    at = np.linspace(0.0, 1.0, len(stops))
    return np.stack([np.interp(shade, at, stops[:, channel]) for channel in range(3)], axis=-1).astype(np.uint8)
