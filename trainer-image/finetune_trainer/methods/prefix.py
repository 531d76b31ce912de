"""Prefix tuning (Li and Liang 2021): trained keys and values that every token of every layer may look at.

They start as the keys and values of random words, which the paper found better than noise. They are added where the
attention function of transformers is replaced (`methods.attention`), so no cache, mask or position of a task changes.

Legend: B rows, H heads, T queries, S keys, P virtual tokens, D head size.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune_api.spec import Method
from finetune_api.spec.training import DEFAULT_VIRTUAL_TOKENS
from finetune_trainer.errors import ConfigError
from finetune_trainer.methods.base import Prepared
from finetune_trainer.methods.layers import freeze_old, keys_and_values
from finetune_trainer.methods.saving import TensorUpdate, load_tensors
from finetune_trainer.models import Loaded


class Prefix(nn.Module):
    """P keys and values of one layer."""

    def __init__(self, key_PW: Tensor, value_PW: Tensor, head_size: int) -> None:
        """Start from given ones.

        Args:
            key_PW: Keys of all heads side by side.
            value_PW: Values likewise.
            head_size: Width of one head.
        """
        super().__init__()
        self.key, self.value = nn.Parameter(key_PW), nn.Parameter(value_PW)
        self._head_size = head_size

    def add(
        self, key_BHSD: Tensor, value_BHSD: Tensor, mask: Tensor | None, *, queries: int, causal: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Put the prefix in front.

        Args:
            key_BHSD: Keys of the tokens.
            value_BHSD: Values of the tokens.
            mask: True, or a number to add to the score, where a query may look at a key; [B or 1, 1 or H, T, S].
            queries: T.
            causal: Whether, without a mask, a token sees only those before it; the last query is the last key's.

        Returns:
            Keys, values and mask with P more positions.
        """
        wide_key, wide_value = (
            torch.cat([self._heads(mine).to(theirs.dtype).expand(len(theirs), -1, -1, -1), theirs], dim=2)
            for mine, theirs in ((self.key, key_BHSD), (self.value, value_BHSD))
        )
        if mask is None and causal:
            keys = key_BHSD.shape[2]
            mask = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=key_BHSD.device).tril(keys - queries)
        if mask is not None:
            seen = mask.new_ones if mask.dtype == torch.bool else mask.new_zeros
            mask = torch.cat([seen(*mask.shape[:-1], len(self.key)), mask], dim=-1)
        return wide_key, wide_value, mask

    def _heads(self, flat_PW: Tensor) -> Tensor:
        return flat_PW.unflatten(-1, (-1, self._head_size)).transpose(0, 1)[None]


def prepare(method: Method, loaded: Loaded) -> Prepared:
    """Freeze a model and give every layer a prefix.

    Args:
        method: How many virtual tokens.
        loaded: The model.

    Returns:
        The model.

    Raises:
        ConfigError: Its attention is none that can be extended.
    """
    model: Any = loaded.model
    biased = hasattr(model.config, "relative_attention_num_buckets")  # T5 adds a bias per pair of positions
    if biased or model.config._attn_implementation != "sdpa":  # noqa: SLF001 - what transformers itself reads
        raise ConfigError(
            f"spec.method.type: prefix-tuning does not reach the attention of a {model.config.model_type} model",
            remedy="Set method.type: prompt-tuning.",
        )
    freeze_old(loaded)
    count = method.virtual_tokens or DEFAULT_VIRTUAL_TOKENS
    places = keys_and_values(model)
    starts = _of_random_words(model, [name for pair in places.values() for name in pair], count)
    for name, (key, value) in places.items():
        attention: Any = model.get_submodule(name)
        size = getattr(attention, "head_dim", None) or attention.attention_head_size
        attention.prefix = Prefix(starts[key], starts[value], size)
    return Prepared(
        model, TensorUpdate(method, model), f"{count} keys and values in each of {len(places)} layers", "virtualTokens"
    )


def load(method: Method, loaded: Loaded, folder: Path) -> nn.Module:
    """Put a saved prefix into the base model."""
    return load_tensors(prepare(method, loaded).model, folder)


def _of_random_words(model: Any, names: list[str], count: int) -> dict[str, Tensor]:
    """Return what some linear layers give for a sequence of random words, [P, W] each."""
    found: dict[str, Tensor] = {}

    def remember(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_: nn.Module, __: Any, output_BTW: Tensor) -> None:
            found[name] = output_BTW[0].detach().clone()

        return hook

    handles = [model.get_submodule(name).register_forward_hook(remember(name)) for name in names]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval().base_model(input_ids=torch.randint(model.config.vocab_size, (1, count)))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return found
