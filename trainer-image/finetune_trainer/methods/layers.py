"""What is where in a transformer: linear layers by their part, blocks, and how deep a parameter lies.

Architectures name their layers differently; the names known to transformers stand in the tables below. What is not
found is an error with a remedy, never a guess.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from finetune_trainer.errors import ConfigError
from finetune_trainer.models import Loaded

_KEYS = frozenset({"key", "k_proj", "k_lin", "k"})
_VALUES = frozenset({"value", "v_proj", "v_lin", "v"})
_MIXED = frozenset({"o_proj", "out_proj", "out_lin", "Wo", "o"})
_ATTENTION = _KEYS | _VALUES | _MIXED | {"query", "q_proj", "q_lin", "q", "qkv_proj", "query_key_value", "Wqkv"}
_WIDTHS = ("intermediate_size", "ffn_dim", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff")
_DEPTHS = ("num_hidden_layers", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers of the backbone, without the head.

    torch's own attention reads the weights of its last layer itself: an update put there would never be computed.
    """
    head: Any = _output_embeddings(model)
    prefix = backbone_prefix(model)
    inside = {id(each.out_proj) for each in model.modules() if isinstance(each, nn.MultiheadAttention)}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and name.startswith(prefix) and id(module) not in inside
    }


def choose_layers(model: nn.Module, wanted: str) -> tuple[list[str], str]:
    """Choose the linear layers that get an update.

    Args:
        model: The model.
        wanted: `auto`, `all-linear`, or parts of module names with commas between them.

    Returns:
        Module names, and the reason.

    Raises:
        ConfigError: No linear layer has such a name, or there is none at all.
    """
    linear = linear_layers(model)
    if not linear:
        raise ConfigError(
            f"a {getattr(model.config, 'model_type', 'this')} model has no linear layers that could get an update",
            remedy="Set method.type to full or head.",
        )
    if wanted == "all-linear":
        return list(linear), "targets is all-linear"
    if wanted == "auto":
        attention = [name for name in linear if _last(name) in _ATTENTION]
        if attention:
            return attention, "the attention projections"
        return list(linear), "the attention projections have no known name, so every linear layer"
    parts = wanted.split(",")
    check_parts("spec.method.targets", parts, linear)
    return [name for name in linear if any(has_part(name, part) for part in parts)], "named in targets"


def check_parts(path: str, parts: Iterable[str], names: Iterable[str]) -> None:
    """Refuse a part that stands in no name.

    Args:
        path: Where the parts stand in the manifest.
        parts: Parts of module names.
        names: The modules that they may choose from.

    Raises:
        ConfigError: A part chooses nothing.
    """
    known = list(names)
    for part in parts:
        if not any(has_part(name, part) for name in known):
            told = ", ".join(sorted({_last(name) for name in known}))
            raise ConfigError(f"{path}: no target layer has {part!r} in its name", remedy=f"Choose from {told}.")


def has_part(name: str, part: str) -> bool:
    """Tell whether a dotted name holds a dotted part: `encoder.layer.1.query` holds `layer.1`, not `layer.11`."""
    return f".{part}." in f".{name}."


def new_modules(loaded: Loaded) -> list[str]:
    """Return the leaf modules whose weights start at random: they must be trained and saved whole."""
    modules = dict(loaded.model.named_modules())
    parents = {name.rpartition(".")[0] for name in loaded.new_parameters}
    head: Any = _output_embeddings(loaded.model)
    return sorted(
        name
        for name in parents
        if name in modules and not any(True for _ in modules[name].children()) and modules[name] is not head
    )


def freeze_old(loaded: Loaded) -> None:
    """Freeze everything but the weights that start at random."""
    fresh = new_modules(loaded)
    for name, parameter in loaded.model.named_parameters():
        parameter.requires_grad_(name.rpartition(".")[0] in fresh)


def keys_and_values(model: nn.Module) -> dict[str, tuple[str, str]]:
    """Return each attention module's name and the names of its key and value projections.

    Args:
        model: The model.

    Returns:
        At least one.

    Raises:
        ConfigError: The projections are fused, or have unknown names.
    """  # noqa: DOC503
    found: dict[str, tuple[str, str]] = {}
    linear = linear_layers(model)
    for name in linear:
        parent, _, last = name.rpartition(".")
        value = next((each for each in linear if each.rpartition(".")[0] == parent and _last(each) in _VALUES), None)
        if last in _KEYS and value is not None:
            found[parent] = (name, value)
    if not found:
        raise _unknown(model, "key and value projections")
    return found


def feed_forward_outputs(model: nn.Module) -> list[str]:
    """Return the linear layers that end a feed-forward part: from the inner width back to the hidden one.

    Args:
        model: The model.

    Returns:
        Names, at least one.

    Raises:
        ConfigError: There are none.
    """  # noqa: DOC503
    config: Any = model.config
    widths = {getattr(config, name) for name in _WIDTHS if isinstance(getattr(config, name, None), int)}
    linear = linear_layers(model)
    found = [
        name
        for name, each in linear.items()
        if each.out_features == config.hidden_size and each.in_features in widths - {config.hidden_size}
    ]
    if not found:
        raise _unknown(model, "feed-forward layers")
    return found


def attention_outputs(model: nn.Module) -> list[str]:
    """Return the linear layers that end an attention part.

    Args:
        model: The model.

    Returns:
        Names, at least one.

    Raises:
        ConfigError: There are none.
    """  # noqa: DOC503
    found = [
        name for name in linear_layers(model) if _last(name) in _MIXED or name.endswith(("attention.output.dense",))
    ]
    if not found:
        raise _unknown(model, "attention output projections")
    return found


def depths(model: nn.Module) -> tuple[Mapping[str, int], int]:
    """Say how deep each parameter lies, from the input on.

    Args:
        model: The model.

    Returns:
        Parameter names to 0 for what stands before the first block (embeddings), 1 to N for the N blocks (an encoder's
        before the decoder's), and N + 1 for what follows them (last norm, pooler, head); and N. A head tied to the
        embeddings is at 0.

    Raises:
        ConfigError: The blocks are not found.
    """  # noqa: DOC502
    blocks = _blocks(model)
    found: dict[str, int] = {}
    deepest = 0
    for name, _ in model.named_parameters():
        number = next((number for number, each in enumerate(blocks, start=1) if name.startswith(f"{each}.")), None)
        if number is not None:
            deepest = found[name] = number
        else:
            found[name] = len(blocks) + 1 if deepest == len(blocks) else deepest
    return found, len(blocks)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the blocks, from the input on.

    Args:
        model: The model.

    Returns:
        At least one.

    Raises:
        ConfigError: They are not found.
    """  # noqa: DOC502
    return [model.get_submodule(name) for name in _blocks(model)]


def _blocks(model: nn.Module) -> list[str]:
    """Return the names of the blocks, from the input on."""
    config: Any = model.config
    wanted = {getattr(config, name) for name in _DEPTHS if isinstance(getattr(config, name, None), int)}
    lists: list[str] = []
    for name, module in model.named_modules():
        nested = any(name.startswith(f"{each}.") for each in lists)
        if isinstance(module, nn.ModuleList) and len(module) in wanted and not nested:
            lists.append(name)
    if not lists:
        raise _unknown(model, "blocks")
    return [f"{name}.{number}" for name in lists for number, _ in model.get_submodule(name).named_children()]


def _unknown(model: nn.Module, what: str) -> ConfigError:
    kind = getattr(model.config, "model_type", type(model).__name__)
    return ConfigError(f"the {what} of a {kind} model have no known names", remedy="Choose another method.type.")


def _output_embeddings(model: nn.Module) -> Any:
    getter: Any = getattr(model, "get_output_embeddings", lambda: None)
    return getter()


def backbone_prefix(model: nn.Module) -> str:
    """Return how the names of the backbone's parameters begin; a model that is its own backbone (T5) has no prefix."""
    whole: Any = model
    return "" if whole.base_model is model else f"{whole.base_model_prefix}."


def _last(name: str) -> str:
    return name.rpartition(".")[2]
