"""Low-rank updates (Hu et al. 2021), by peft: W x + alpha/rank * B A x, with W frozen and B zero at the start."""

from typing import Any, cast

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from finetune_api.spec import Method
from finetune_trainer.errors import ConfigError
from finetune_trainer.methods import Prepared
from finetune_trainer.models import Loaded

DEFAULT_RANK = 16
DEFAULT_DROPOUT = 0.05
_ATTENTION = frozenset(
    {"q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "qkv_proj", "query", "key", "value", "query_key_value"}
    | {"q_lin", "k_lin", "v_lin", "out_lin", "Wqkv", "Wo", "q", "k", "v", "o"}
)


def add_lora(method: Method, loaded: Loaded) -> Prepared:
    """Freeze a model and add updates to some of its linear layers.

    Args:
        method: Rank, alpha, dropout and targets.
        loaded: The model; its new parameters (a fresh head) are trained in full.

    Returns:
        The model with updates.

    Raises:
        ConfigError: A named target is no linear layer of this model.
    """  # noqa: DOC502
    targets, reason = _targets(loaded.model, method.targets or "auto")
    rank = method.rank or DEFAULT_RANK
    config = LoraConfig(
        r=rank,
        lora_alpha=cast("int", method.alpha if method.alpha is not None else 2 * rank),
        lora_dropout=DEFAULT_DROPOUT if method.dropout is None else method.dropout,
        target_modules=targets,
        modules_to_save=_new_modules(loaded) or None,
        bias="none",
    )
    peft: Any = get_peft_model(loaded.model, config)
    assert isinstance(peft, PeftModel), "internal: peft returned another class"
    names = sorted({target.rpartition(".")[2] for target in targets})
    return Prepared(peft.get_base_model(), peft, f"{len(targets)} layers ({', '.join(names)})", reason)


def _targets(model: nn.Module, wanted: str) -> tuple[list[str], str]:
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    whole: Any = model
    # A model that is its own backbone (T5) has names without a prefix.
    backbone = "" if getattr(model, "base_model", None) is model else f"{whole.base_model_prefix}."
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and name.startswith(backbone)
    ]
    if wanted == "all-linear":
        return linear, "targets is all-linear"
    if wanted == "auto":
        attention = [name for name in linear if name.rpartition(".")[2] in _ATTENTION]
        if attention:
            return attention, "the attention projections"
        return linear, "the attention projections have no known name, so every linear layer"
    suffixes = wanted.split(",")
    for suffix in suffixes:
        if not any(name == suffix or name.endswith(f".{suffix}") for name in linear):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise ConfigError(
                f"spec.method.targets: no linear layer of this model ends in {suffix!r}", remedy=f"Choose from {known}."
            )
    return [
        name for name in linear if any(name == suffix or name.endswith(f".{suffix}") for suffix in suffixes)
    ], "named in targets"


def _new_modules(loaded: Loaded) -> list[str]:
    """Return the leaf modules whose weights start at random: they must be trained and saved whole."""
    modules = dict(loaded.model.named_modules())
    parents = {name.rpartition(".")[0] for name in loaded.new_parameters}
    head: Any = getattr(loaded.model, "get_output_embeddings", lambda: None)()
    return sorted(
        name
        for name in parents
        if name in modules and not any(True for _ in modules[name].children()) and modules[name] is not head
    )
