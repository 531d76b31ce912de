"""Sounds: from the bytes of a file to samples at the model's rate, by libsndfile, which is loaded with the first sound.

Channels are averaged. Another rate is changed by a windowed sinc in polyphase form, which is scipy's `resample_poly`.
"""

import io
import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.data.media import Undecodable

Samples = npt.NDArray[np.float32]
_HALF_WIDTH = 10
_KAISER_BETA = 5.0


class SoundDecoder:
    """One channel at a rate."""

    def __init__(self, rate_hz: int) -> None:
        """Decode to this rate.

        Args:
            rate_hz: Samples per second that the model reads.
        """
        self.rate_hz = rate_hz

    @property
    def key(self) -> str:
        """Changes with what is decoded."""
        return f"sound-{self.rate_hz}-1"

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Floats."""
        return np.dtype(np.float32)

    def shape(self, data: bytes) -> tuple[int, ...]:
        """Return how many samples there will be, from the header.

        Args:
            data: The file.

        Returns:
            The shape.

        Raises:
            Undecodable: It is no sound, or has no samples.
        """
        import soundfile  # noqa: PLC0415 - text does not need it

        try:
            found = soundfile.info(io.BytesIO(data))
        except soundfile.SoundFileError as error:
            raise Undecodable("is no sound that is known" if data else "is empty") from error
        if found.frames < 1:
            raise Undecodable("is a sound of no length")
        return (_length(found.frames, found.samplerate, self.rate_hz),)

    def values(self, data: bytes) -> tuple[int, ...]:  # noqa: ARG002
        """No task asks for the samples."""
        return ()

    def decode(self, data: bytes) -> Samples:
        """Return the samples, [N], from -1 to 1.

        Args:
            data: The file.

        Returns:
            As many as `shape` says.

        Raises:
            Undecodable: The file is damaged behind its header.
        """
        import soundfile  # noqa: PLC0415

        try:
            with soundfile.SoundFile(io.BytesIO(data)) as sound:
                promised, rate_hz = sound.frames, sound.samplerate
                samples_NC = sound.read(dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise Undecodable(f"is a damaged sound ({error})") from error
        if promised < 1:
            raise Undecodable("is a sound of no length")
        if len(samples_NC) != promised:
            raise Undecodable(f"ends after {len(samples_NC)} samples, before its header says")
        return resample(samples_NC.mean(axis=1, dtype=np.float32), rate_hz, self.rate_hz)


def resample(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    """Change the rate of samples.

    Args:
        samples: One channel, [N].
        from_hz: Their rate.
        to_hz: The rate wanted.

    Returns:
        [ceil(N * to_hz / from_hz)].
    """
    if from_hz == to_hz:
        return samples
    shared = math.gcd(from_hz, to_hz)
    up, down = to_hz // shared, from_hz // shared
    phases_UT, half = _filter(up, down)
    count = _length(len(samples), from_hz, to_hz)
    taps = phases_UT.shape[1]
    # Output n stands at input position n * down / up; the taps around it are weighted by the filter's phase there.
    at = np.arange(count, dtype=np.int64) * down + half
    first, phase = at // up, at % up
    padded = np.concatenate([np.zeros(taps, np.float32), samples, np.zeros(taps, np.float32)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps)
    out = np.empty(count, dtype=np.float32)
    for number in range(min(up, count)):
        mine = np.flatnonzero(phase == phase[number])
        out[mine] = windows[first[mine] + 1] @ phases_UT[phase[number]]
    return out


@lru_cache(maxsize=8)
def _filter(up: int, down: int) -> tuple[npt.NDArray[np.float32], int]:
    """Return the low-pass filter cut into phases, taps in the order of the samples, [up, taps]; and its half length."""
    most = max(up, down)
    half = _HALF_WIDTH * most
    at = np.arange(-half, half + 1)
    sinc: npt.NDArray[Any] = np.sinc(at / most) / most * np.kaiser(2 * half + 1, _KAISER_BETA)
    sinc *= up / sinc.sum()
    taps = -(-len(sinc) // up)
    whole: npt.NDArray[Any] = np.zeros(taps * up)
    whole[: len(sinc)] = sinc
    return whole.reshape(taps, up).T[:, ::-1].astype(np.float32).copy(), half


def _length(count: int, from_hz: int, to_hz: int) -> int:
    return -(-count * to_hz // from_hz)
