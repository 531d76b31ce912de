"""Noise on the embedded input while training (NEFTune, Jain et al. 2023): at most alpha / sqrt(tokens x width)."""

from typing import Any

import torch
from torch import Tensor, nn


def add_embedding_noise(model: nn.Module, alpha: float) -> None:
    """Add noise to what a model's embedding gives, in training mode only.

    Args:
        model: With one table of input embeddings.
        alpha: Strength; 5 to 15 in the paper.
    """
    embedding: Any = getattr(model, "get_input_embeddings")()  # noqa: B009 - nn.Module declares no such method

    def noisy(module: nn.Module, _: Any, output_BTH: Tensor) -> Tensor:
        if not module.training:
            return output_BTH
        tokens, width = output_BTH.shape[-2:]
        return output_BTH + torch.empty_like(output_BTH).uniform_(-1.0, 1.0) * (alpha / (tokens * width) ** 0.5)

    embedding.register_forward_hook(noisy)
