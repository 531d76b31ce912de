"""Methods that train some of the model's own weights: a table of which ones.

Layer-wise decay (Sun et al. 2019) and gradual unfreezing (Howard and Ruder 2018) are fields of those that train whole
blocks. Weights that start at random are always trained.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from finetune_api.period import parse_period
from finetune_api.spec import Method
from finetune_trainer.errors import ConfigError
from finetune_trainer.hooks import StepHook
from finetune_trainer.methods.base import Prepared
from finetune_trainer.methods.layers import backbone_prefix, depths
from finetune_trainer.methods.saving import TensorUpdate, load_tensors
from finetune_trainer.models import Loaded

Names = set[str]


def prepare(method: Method, loaded: Loaded) -> Prepared:
    """Freeze what the method does not train.

    Args:
        method: Its type chooses from the table.
        loaded: The model, and which of its parameters are new.

    Returns:
        The model.

    Raises:
        ConfigError: The model has no such weights.
    """
    choose, decision, missing = _KINDS[method.type]
    chosen = choose(method, loaded)
    if not chosen:
        kind = getattr(loaded.model.config, "model_type", "this")
        raise ConfigError(f"spec.method.type: a {kind} model has no {missing}", remedy="Choose another method.")
    for name, each in loaded.model.named_parameters():
        each.requires_grad_((name in chosen and name not in loaded.frozen) or name in loaded.new_parameters)
    update = None if method.type == "full" else TensorUpdate(method, loaded.model)
    rates, hooks = _rates(method, loaded), _hooks(method, loaded)
    return Prepared(loaded.model, update, decision, f"method.type is {method.type}", rates, hooks)


def load(method: Method, loaded: Loaded, folder: Path) -> nn.Module:
    """Put saved weights into the base model."""
    return load_tensors(prepare(method, loaded).model, folder)


def _every(_: Method, loaded: Loaded) -> Names:
    return {name for name, _ in loaded.model.named_parameters()}


def _biases(_: Method, loaded: Loaded) -> Names:
    return {name for name, _ in loaded.model.named_parameters() if name.rpartition(".")[2] == "bias"}


def _norms(_: Method, loaded: Loaded) -> Names:
    return {
        f"{module_name}.{name}"
        for module_name, module in loaded.model.named_modules()
        if type(module).__name__.endswith("Norm")
        for name, _ in module.named_parameters(recurse=False)
    }


def _head(_: Method, loaded: Loaded) -> Names:
    """Return what stands outside the backbone; the embeddings when the head is nothing but these."""
    prefix = backbone_prefix(loaded.model)
    outside = {name for name, _ in loaded.model.named_parameters() if not name.startswith(prefix)}
    if outside:
        return outside
    tied = loaded.model.get_output_embeddings()
    own = {id(each) for each in tied.parameters()} if tied is not None else set[int]()
    return {name for name, each in loaded.model.named_parameters() if id(each) in own}


def _top(method: Method, loaded: Loaded) -> Names:
    found, count = depths(loaded.model)
    layers = method.layers or 1
    if layers > count:
        raise ConfigError(f"spec.method.layers: the model has {count} layers, found {layers}", remedy="Lower it.")
    return {name for name, depth in found.items() if depth > count - layers}


def _part(part: str) -> Callable[[Method, Loaded], Names]:
    def choose(_: Method, loaded: Loaded) -> Names:
        if not loaded.model.config.is_encoder_decoder:
            return set()
        prefix = f"{backbone_prefix(loaded.model)}{part}."
        return {name for name, _ in loaded.model.named_parameters() if name.startswith(prefix)}

    return choose


_KINDS: Mapping[str, tuple[Callable[[Method, Loaded], Names], str, str]] = {
    "full": (_every, "every weight", "weights"),
    "bitfit": (_biases, "biases", "biases"),
    "layer-norm": (_norms, "normalisation weights", "normalisation layers"),
    "head": (_head, "the head", "head apart from its backbone"),
    "top-layers": (_top, "the last layers and what follows them", "layers"),
    "encoder": (_part("encoder"), "the encoder", "decoder beside its encoder"),
    "decoder": (_part("decoder"), "the decoder", "decoder beside its encoder"),
}


def _rates(method: Method, loaded: Loaded) -> dict[str, float]:
    if method.layer_decay is None:
        return {}
    found, count = depths(loaded.model)
    return {name: method.layer_decay ** (count + 1 - depth) for name, depth in found.items()}


def _hooks(method: Method, loaded: Loaded) -> tuple[StepHook, ...]:
    if method.unfreeze_every is None:
        return ()
    return (Unfreezing(loaded, method.unfreeze_every),)


class Unfreezing(StepHook):
    """Trains what follows the blocks first, then one block more after every period, from the last to the first.

    The state is a function of the step, so a checkpoint keeps nothing of it.
    """

    def __init__(self, loaded: Loaded, every: str) -> None:
        """Sort the trained parameters by depth.

        Args:
            loaded: The model with its trained parameters marked.
            every: A period in steps or epochs.
        """
        found, count = depths(loaded.model)
        # Weights that start at random belong to the first stage wherever they lie.
        self._stages = [
            (each, 0 if name in loaded.new_parameters else count + 1 - found[name])
            for name, each in loaded.model.named_parameters()
            if each.requires_grad
        ]
        # Without parameters behind the blocks, such as with a tied head and no last norm, the last block comes first.
        self._first = min(stage for _, stage in self._stages)
        self._every = parse_period(every)
        self._every_steps = 1

    def begin(self, max_steps: int, steps_per_epoch: int) -> None:  # noqa: ARG002 - a function of the step alone
        """Turn the period into steps."""
        epochs = self._every.epochs
        self._every_steps = self._every.steps or max(1, math.ceil((epochs or 0.0) * steps_per_epoch))

    def before_step(self, step: int) -> None:
        """Mark what is trained in this step."""
        open_stages = self._first + step // self._every_steps
        for each, stage in self._stages:
            each.requires_grad_(stage <= open_stages)
