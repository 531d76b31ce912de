"""What the tasks over sounds share: reading rows, padding sounds to a batch, and the stretches that are hidden.

Legend: B rows, N samples, T frames, H width of the encoder, M mel bands, L target tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Example
from finetune_trainer.data.speech import AUDIO, SpeechProcessor
from finetune_trainer.data.table import TokenTable, fixed_width, media_table, unpadded
from finetune_trainer.tasks.base import Array, Encoded, Refused
from finetune_trainer.tasks.speech_encoder import HIDDEN_FEATURES, HIDDEN_FRAMES
from finetune_trainer.tasks.speech_masking import Masking

SAMPLES, TARGET = "samples", "target"


@dataclass(frozen=True, slots=True)
class Sound:
    """What a row of the table comes from: its example, its length for sorting, and what is to be learned from it."""

    example: Example
    frames: int
    samples: int
    target: Sequence[int] = ()


def speech_table(rows: Sequence[Sound], refused: Sequence[Refused], cut: int, dense: Mapping[str, Array]) -> Encoded:
    """Return rows as a table: `samples` [N, 1] and, padded, `target` [N, L], beside other dense columns."""
    target = fixed_width([each.target for each in rows])
    samples = np.array([each.samples for each in rows], dtype=np.int64).reshape(-1, 1)
    table = media_table([each.frames for each in rows], {SAMPLES: samples, TARGET: target, **dense})
    return Encoded(table, [each.example for each in rows], refused, cut)


def target_of(table: TokenTable, row: int) -> Array:
    """Return what is to be learned from a row."""
    return unpadded(table, TARGET, row)


@dataclass(frozen=True, slots=True)
class Listener:
    """Makes a batch of sounds."""

    processor: SpeechProcessor
    masking: Masking | None

    def listen(self, table: TokenTable, rows: Rows, epoch: int | None) -> dict[str, Tensor]:
        """Decode sounds and pad them; a row without one is silent.

        Args:
            table: Of `speech_table`.
            rows: Sound numbers, [B].
            epoch: Decides what is hidden; None hides nothing.

        Returns:
            `input_values` [B, N] with `attention_mask` where rows differ, and `frames` [B]; or what a model with a
            fixed window reads. While training also what is hidden, where that is not part of the input.
        """
        column = table.media[AUDIO]
        samples = table.dense[SAMPLES]

        def heard_of(row: int) -> Array:
            count = int(samples[row, 0])
            sound = np.zeros(count, np.float32) if column.sources[row] is None else column.decoded(row)[:count]
            return self.processor.hear(sound)

        heard = column.map(heard_of, rows)
        if not self.processor.reads_samples:
            return {self.processor.input_name: torch.from_numpy(self._windows(heard, table, rows, epoch))}
        lengths = np.array([len(each) for each in heard])
        values = np.zeros((len(rows), int(lengths.max())), dtype=np.float32)
        for at, each in enumerate(heard):
            values[at, : len(each)] = each
        frames = [self.processor.frames(int(length)) for length in lengths]
        tensors = {self.processor.input_name: torch.from_numpy(values), "frames": torch.tensor(frames)}
        if int(lengths.min()) < values.shape[1]:
            mask = np.arange(values.shape[1])[None, :] < lengths[:, None]
            tensors["attention_mask"] = torch.from_numpy(mask.astype(np.int64))
        return tensors | self._hidden(rows, epoch, frames)

    def _hidden(self, rows: Rows, epoch: int | None, frames: Sequence[int]) -> dict[str, Tensor]:
        if self.masking is None or epoch is None:
            return {}
        width = int(self.processor.config["hidden_size"])
        time = np.zeros((len(rows), max(frames)), dtype=np.bool_)
        features = np.zeros((len(rows), width), dtype=np.bool_)
        for at, (row, count) in enumerate(zip(rows, frames, strict=True)):
            time[at, :count], features[at] = self.masking.draw(int(row), epoch, count, width)
        return {HIDDEN_FRAMES: torch.from_numpy(time), HIDDEN_FEATURES: torch.from_numpy(features)}

    def _windows(self, heard: Sequence[Array], table: TokenTable, rows: Rows, epoch: int | None) -> Array:
        """Return spectrograms as one array, zeros where something is hidden; silence behind a sound never is."""
        windows: Any = np.stack(heard)
        if self.masking is None or epoch is None:
            return windows
        assert self.processor.window is not None, "internal: a spectrogram without a window"
        bands, columns = windows.shape[1:]
        for at, row in enumerate(rows):
            count = int(table.dense[SAMPLES][row, 0]) * columns // self.processor.window
            time, features = self.masking.draw(int(row), epoch, count, bands)
            windows[at, :, :count][:, time] = 0.0
            windows[at, features] = 0.0
        return windows
