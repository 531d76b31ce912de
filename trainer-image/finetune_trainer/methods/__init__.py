"""Which weights are trained: the registry of methods, one file each or a row of `selection`, and what all share."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from finetune_api.spec import Method
from finetune_trainer.attention import attend
from finetune_trainer.dropout import use_cheap_dropout
from finetune_trainer.embedding import use_row_gradients
from finetune_trainer.errors import ConfigError
from finetune_trainer.lean import AttentionInterface, PreTrainedModel, sdpa_attention_forward
from finetune_trainer.methods.base import MethodModule, Prepared
from finetune_trainer.methods.saving import saved_method
from finetune_trainer.models import Loaded
from finetune_trainer.statistics import freeze_statistics

__all__ = ["METHODS", "Prepared", "attach", "load_update", "prepare"]

METHODS: Mapping[str, str] = {
    **dict.fromkeys(("full", "bitfit", "layer-norm", "head", "top-layers", "encoder", "decoder"), "selection"),
    **dict.fromkeys(("prompt-tuning", "p-tuning"), "prompts"),
    "prefix-tuning": "prefix",
    "bottleneck": "bottleneck",
    "lora": "lora",
    "adalora": "adalora",
    "ia3": "ia3",
}
"""method.type to the file that implements it, imported when it is needed: peft takes seconds."""


def prepare(method: Method, loaded: Loaded) -> Prepared:
    """Set up what is trained.

    Args:
        method: The manifest's method section.
        loaded: The model, and which of its parameters are new.

    Returns:
        The same model, with other parameters frozen.

    Raises:
        ConfigError: A part of the model starts at random, and the method would not train and save all of it.
    """
    if loaded.from_nothing and method.type != "full":
        raise ConfigError(
            f"spec.method.type: {len(loaded.from_nothing)} weights start at random, {min(loaded.from_nothing)} first; "
            f"{method.type} would leave most of them so",
            remedy="Set method: {type: full}, or give every part of the model its weights.",
        )
    prepared = module_of(method).prepare(method, loaded)
    use_cheap_dropout(prepared.model)
    use_row_gradients(prepared.model)
    freeze_statistics(prepared.model)
    AttentionInterface.register("sdpa", _attention)
    return prepared


def load_update(method: Method, loaded: Loaded, folder: Path) -> nn.Module:
    """Put an update, as an artifact holds it, onto the base model.

    Args:
        method: The manifest's method section.
        loaded: The base model.
        folder: The artifact's `adapter` folder.

    Returns:
        The model in evaluation mode.
    """
    return module_of(method).load(method, loaded, folder)


def attach(model: PreTrainedModel, folder: Path) -> nn.Module:
    """Put an update that peft does not know onto a model, as the model card shows.

    Args:
        model: The base model, with the head of the task.
        folder: The artifact's `adapter` folder.

    Returns:
        The model in evaluation mode.
    """
    return load_update(saved_method(folder), Loaded(model, ()), folder)


def module_of(method: Method) -> MethodModule:
    """Return the module of a method's type, imported when it is first asked for: peft takes a second."""
    return cast("MethodModule", import_module(f"{__name__}.{METHODS[method.type]}"))


def _attention(  # noqa: PLR0913, PLR0917 - the interface of transformers
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Take over from transformers' sdpa where torch has no fused kernel: encoders with dropout on a CPU."""
    told = more.get("is_causal")
    causal = attention_mask is None and (getattr(module, "is_causal", True) if told is None else told)
    prefix: Any = getattr(module, "prefix", None)
    if prefix is not None:
        key, value, attention_mask = prefix.add(key, value, attention_mask, queries=query.shape[2], causal=causal)
        causal, more["is_causal"] = False, False
    special = causal or any(more.get(name) is not None for name in ("position_bias", "cache", "softcap"))
    if special or dropout == 0.0 or scaling is None or query.device.type != "cpu" or query.shape[1] != key.shape[1]:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    return attend(query, key, value, attention_mask, dropout_p=dropout, scaling=scaling).transpose(1, 2), None
