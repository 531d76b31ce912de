"""Where a model's input can be moved a little: embedded tokens, pixels, or what is heard of a sound.

Legend: B rows, T tokens, H width of the embedding.
"""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from finetune_trainer.data.table import INPUT_IDS
from finetune_trainer.errors import ConfigError
from finetune_trainer.tasks.base import Batch

LENGTHS = "lengths"
"""The tensor of a batch that says how many tokens each row has, those of a target included, [B]."""
_CONTINUOUS = ("pixel_values", "input_values", "input_features")


def movable(model: nn.Module, batch: Batch) -> Tensor:
    """Return 1 where the input of a batch may be moved and 0 where padding is, in the shape of what moves.

    Args:
        model: What reads the batch.
        batch: Rows of tokens with their `lengths`, of images or of sounds.

    Returns:
        [B, T, H], or the shape of the pixels or the sound; float32.
    """
    name, whole = _input(batch)
    mask = batch.tensors.get("attention_mask")
    if mask is not None and mask.shape != whole.shape:
        mask = None
    if name != INPUT_IDS:
        ones = torch.ones_like(whole, dtype=torch.float32)
        return ones if mask is None else ones * mask
    # Causal models need no mask for padding on their right.
    inside_BT = (
        torch.arange(whole.shape[1], device=whole.device) < batch.tensors[LENGTHS][:, None] if mask is None else mask
    )
    return inside_BT[:, :, None].float().expand(*whole.shape, _tables(model)[0].embedding_dim)


@contextmanager
def moved(model: nn.Module, batch: Batch, delta: Tensor) -> Generator[None]:
    """Add `delta` to the batch's input whenever this model reads it inside the block.

    The batch stays as it is: another model that reads it, such as a teacher, sees the rows themselves.
    """
    name, whole = _input(batch)

    def is_whole(given: Any) -> bool:
        return isinstance(given, Tensor) and given.data_ptr() == whole.data_ptr() and given.numel() == whole.numel()

    def embedded(_: nn.Module, given: Any, output_BTH: Tensor) -> Tensor:
        return output_BTH + delta.view_as(output_BTH) if is_whole(given[0]) else output_BTH

    def read(_: nn.Module, given: Any, named: dict[str, Any]) -> Any:
        return (given, {**named, name: whole + delta}) if is_whole(named.get(name)) else None

    with ExitStack() as stack:
        if name == INPUT_IDS:
            for table in _tables(model):
                stack.enter_context(table.register_forward_hook(embedded))
        else:
            backbone: Any = model.base_model
            for each in {model, backbone}:
                stack.enter_context(each.register_forward_pre_hook(read, with_kwargs=True))
        yield


def _input(batch: Batch) -> tuple[str, Tensor]:
    return next((name, batch.tensors[name]) for name in (*_CONTINUOUS, INPUT_IDS) if name in batch.tensors)


def _tables(model: nn.Module) -> list[nn.Embedding]:
    """Return every table that tokens may be looked up in: some models have one for each side, with the same weights."""
    found: Any = getattr(model, "get_input_embeddings")()  # noqa: B009 - nn.Module declares no such method
    if not isinstance(found, nn.Embedding):
        raise ConfigError(
            "spec.training.adversarial: this method or model embeds its tokens in a way that cannot be perturbed",
            remedy="Remove adversarial, or choose another method.",
        )
    return [
        each for each in model.modules() if isinstance(each, nn.Embedding) and each.weight.shape == found.weight.shape
    ]
