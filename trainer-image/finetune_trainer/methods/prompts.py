"""Trained vectors among the input: prompt tuning (Lester et al. 2021) and P-tuning (Liu et al. 2021).

`virtualTokens` vectors stand in front of a causal model's input, and behind the first token of an encoder, whose head
reads that token. They enter and leave inside the backbone, so tasks see the positions that they know. Prompt tuning
trains the vectors, starting from random words; P-tuning trains a small network that makes them.

Legend: B rows, T tokens, P virtual tokens, H hidden size.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune_api.spec import Method
from finetune_api.spec.training import DEFAULT_VIRTUAL_TOKENS
from finetune_trainer.methods.base import Prepared
from finetune_trainer.methods.layers import freeze_old
from finetune_trainer.methods.saving import TensorUpdate, load_tensors
from finetune_trainer.models import Loaded


class SoftPrompt(nn.Module):
    """P vectors of the input's width, as they are or through an encoder."""

    def __init__(self, start_PH: Tensor, *, encoded: bool) -> None:
        """Start from given vectors.

        Args:
            start_PH: The vectors.
            encoded: Whether three linear layers stand between them and the input.
        """
        super().__init__()
        width = start_PH.shape[1]
        self.vectors = nn.Parameter(start_PH)
        self.encoder = (
            nn.Sequential(
                nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
            )
            if encoded
            else nn.Identity()
        )

    def forward(self) -> Tensor:
        """Return the vectors, [P, H]."""
        return self.encoder(self.vectors)


def prepare(method: Method, loaded: Loaded) -> Prepared:
    """Freeze a model and put virtual tokens into its input."""
    freeze_old(loaded)
    model: Any = loaded.model
    # Of a model with an encoder and a decoder the encoder is prompted; the decoder sees what comes out of it.
    split = model.config.is_encoder_decoder
    backbone: Any = model.get_encoder() if split else model.base_model
    count = method.virtual_tokens or DEFAULT_VIRTUAL_TOKENS
    encoded = method.type == "p-tuning"
    table: Tensor = model.get_input_embeddings().weight.detach()
    start_PH = torch.randn(count, table.shape[1]) if encoded else sample_words(table, count)
    backbone.soft_prompt = SoftPrompt(start_PH, encoded=encoded)
    place = 0 if model.can_generate() else 1
    backbone.forward = _with_prompt(backbone, backbone.forward, place)
    where = "behind the first token" if place else "in front of the input"
    made = " made by a network" if encoded else ""
    return Prepared(model, TensorUpdate(method, model), f"{count} virtual tokens{made}", where)


def load(method: Method, loaded: Loaded, folder: Path) -> nn.Module:
    """Put a saved prompt into the base model."""
    return load_tensors(prepare(method, loaded).model, folder)


def sample_words(table_VH: Tensor, count: int) -> Tensor:
    """Return the embeddings of random words, [P, H]."""
    return table_VH[torch.randint(len(table_VH), (count,))].clone()


def _with_prompt(backbone: Any, forward: Callable[..., Any], place: int) -> Callable[..., Any]:
    """Return the backbone's forward with virtual tokens inserted at `place` and taken out of the last hidden state."""
    names = inspect.signature(forward)

    def prompted(*arguments: Any, **more: Any) -> Any:
        bound = names.bind(*arguments, **more).arguments
        given: dict[str, Any] = {**bound, **bound.pop("kwargs", {})}
        prompt_PH = backbone.soft_prompt()
        count = len(prompt_PH)
        cached = given.get("past_key_values")
        if cached is not None and cached.get_seq_length() > 0:
            return forward(**_behind_the_prompt(given, count))
        embedded_BTH = backbone.get_input_embeddings()(given.pop("input_ids"))
        prompts_BPH = prompt_PH.to(embedded_BTH.dtype).expand(len(embedded_BTH), -1, -1)
        given["inputs_embeds"] = _insert(embedded_BTH, prompts_BPH, place)
        mask = given.get("attention_mask")
        if mask is not None:
            given["attention_mask"] = _wider(mask, count, place)
        if given.get("position_ids") is not None:
            given["position_ids"] = _shifted(given["position_ids"], count)
        types = given.get("token_type_ids")
        if types is not None:
            given["token_type_ids"] = _insert(types, types[:, :1].expand(-1, count), place)
        found = forward(**given)
        hidden = found.last_hidden_state
        found.last_hidden_state = torch.cat([hidden[:, :place], hidden[:, place + count :]], dim=1)
        return found

    return prompted


def _behind_the_prompt(given: dict[str, Any], count: int) -> dict[str, Any]:
    """Return the arguments of a step of generation: the cache holds the virtual tokens already."""
    if given.get("attention_mask") is not None:
        given["attention_mask"] = _wider(given["attention_mask"], count, 0)
    if given.get("position_ids") is not None:
        given["position_ids"] = given["position_ids"] + count
    return given


def _insert(tensor: Tensor, inserted: Tensor, place: int) -> Tensor:
    return torch.cat([tensor[:, :place], inserted, tensor[:, place:]], dim=1)


def _wider(mask: Tensor, count: int, place: int) -> Tensor:
    """Let every token see the virtual ones: a mask [B, T] of tokens, or [B, 1, T, T] of pairs in a causal model."""
    if mask.ndim == 2:
        return _insert(mask, mask.new_ones(len(mask), count), place)
    assert place == 0, "internal: rows share a sequence only in causal models"
    rows = mask.shape[-1] + count
    wide = mask.new_zeros(len(mask), 1, rows, rows)
    wide[..., :count] = 1
    wide[..., :count, :count] = torch.tril(wide[0, 0, :count, :count])
    wide[..., count:, count:] = mask
    return wide


def _shifted(positions_BT: Tensor, count: int) -> Tensor:
    front = torch.arange(count, device=positions_BT.device).expand(len(positions_BT), -1)
    return torch.cat([front, positions_BT + count], dim=1)
