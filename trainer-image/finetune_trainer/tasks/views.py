"""Images of a batch as they are judged, and as `finetune data` tells of them."""

import numpy as np
import torch
from torch import Tensor

from finetune_trainer.data.image_settings import ImageSettings
from finetune_trainer.data.image_text import IMAGE
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.table import Array, TokenTable
from finetune_trainer.tasks.base import Piece


def pixel_values(table: TokenTable, rows: Rows, settings: ImageSettings) -> Tensor:
    """Return the images of rows, [B, 3, H, W]; black where a row has none."""
    column = table.media[IMAGE]

    def seen(row: int) -> Array:
        if column.sources[row] is None:
            return np.zeros((3, *settings.size), dtype=np.float32)
        return settings.normalised(settings.whole(column.decoded(row)))

    return torch.from_numpy(np.stack(column.map(seen, rows)))


def image_piece(table: TokenTable, row: int, settings: ImageSettings) -> Piece:
    """Return what an image is called, its size, and the size in which the model sees it."""
    source = table.media[IMAGE].source(row)
    height, width = source.shape[:2]
    seen = f"{settings.size[1]}x{settings.size[0]}"
    return Piece(f"[image {source.name}, {width}x{height} pixels, seen as {seen}]", supervised=False)
