"""The encoder of wav2vec2 and its relatives, made independent of what a row is padded with and of global randomness.

A row is padded in samples. With `feat_extract_norm: group` (wav2vec2-base) the first convolution is normalised over the
whole row, padding included, so a row's loss would depend on the longest row beside it; there the convolutions see each
row alone, at its own length, and what they give is padded. The layers that follow are masked. With `layer` a frame
depends on its own samples alone, and all rows go together. What is hidden (SpecAugment) comes with the batch.

Legend: B rows, N samples, T frames, H width of the encoder, F channels of the convolutions.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune_trainer.tasks.base import Batch

HIDDEN_FRAMES, HIDDEN_FEATURES = "hidden_frames", "hidden_features"


@contextmanager
def exact_encoder(model: nn.Module, batch: Batch) -> Generator[None]:
    """Change a model's encoder inside the block, for one batch; models without such an encoder are left alone.

    Args:
        model: With a head.
        batch: `attention_mask` [B, N] where rows differ in length; `hidden_frames` [B, T] and `hidden_features` [B, H]
            while training.
    """
    whole: Any = model
    encoder: Any = whole.base_model
    if not hasattr(encoder, "_mask_hidden_states"):
        yield
        return
    convolutions: Any = encoder.feature_extractor
    original = convolutions.forward
    mask_BN = batch.tensors.get("attention_mask")

    def alone(values_BN: Tensor) -> Tensor:
        lengths = values_BN.new_full((len(values_BN),), values_BN.shape[1]) if mask_BN is None else mask_BN.sum(dim=1)
        parts = [original(row[None, : int(length)]) for row, length in zip(values_BN, lengths, strict=True)]
        width = max(part.shape[-1] for part in parts)
        return torch.cat([F.pad(part_1FT, (0, width - part_1FT.shape[-1])) for part_1FT in parts])

    def hide(hidden_BTH: Tensor, *_: Any, **__: Any) -> Tensor:
        frames_BT, features_BH = batch.tensors.get(HIDDEN_FRAMES), batch.tensors.get(HIDDEN_FEATURES)
        if frames_BT is not None:
            hidden_BTH = torch.where(frames_BT[..., None], encoder.masked_spec_embed.to(hidden_BTH.dtype), hidden_BTH)
        if features_BH is not None:
            hidden_BTH = hidden_BTH.masked_fill(features_BH[:, None], 0.0)
        return hidden_BTH

    mixes_time = mask_BN is not None and encoder.config.feat_extract_norm == "group"
    if mixes_time:
        convolutions.forward = alone
    encoder._mask_hidden_states = hide  # noqa: SLF001 - where transformers draws its own
    try:
        yield
    finally:
        if mixes_time:
            del convolutions.forward
        del encoder._mask_hidden_states  # noqa: SLF001
