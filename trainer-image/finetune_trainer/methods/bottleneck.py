"""Bottleneck adapters (Houlsby et al. 2019; Pfeiffer et al. 2021): a small two-layer network behind a linear layer.

y becomes y + U f(D y), with D from the hidden width to `size` and U back; U starts at zero, so the untrained model is
the base model. Houlsby puts one behind attention and one behind the feed-forward part, Pfeiffer only the latter. Being
no linear map, an adapter cannot be merged into weights.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune_api.spec import Method
from finetune_trainer.methods.base import Prepared
from finetune_trainer.methods.layers import attention_outputs, feed_forward_outputs, freeze_old
from finetune_trainer.methods.saving import TensorUpdate, load_tensors
from finetune_trainer.models import Loaded

_REDUCTION = 16
_SMALLEST = 8
_DEVIATION = 1e-2


class AdaptedLinear(nn.Linear):
    """A linear layer with a bottleneck behind it; its own weight keeps its name."""

    adapter_down: nn.Linear
    adapter_up: nn.Linear

    def start(self, size: int) -> None:
        """Add an adapter that changes nothing yet."""
        place: dict[str, Any] = {"device": self.weight.device, "dtype": self.weight.dtype}
        self.adapter_down = nn.Linear(self.out_features, size, **place)
        self.adapter_up = nn.Linear(size, self.out_features, **place)
        with torch.no_grad():
            self.adapter_down.weight.normal_(std=_DEVIATION)
            self.adapter_down.bias.zero_()
            self.adapter_up.weight.zero_()
            self.adapter_up.bias.zero_()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name
        """Return the layer's output and what the adapter adds to it."""
        output = super().forward(input)
        return output + self.adapter_up(F.gelu(self.adapter_down(output)))


def prepare(method: Method, loaded: Loaded) -> Prepared:
    """Freeze a model and put adapters into its blocks."""
    model: Any = loaded.model
    freeze_old(loaded)
    size = method.size or max(_SMALLEST, model.config.hidden_size // _REDUCTION)
    names = feed_forward_outputs(model)
    if method.placement != "pfeiffer":
        names += attention_outputs(model)
    for name in names:
        module = model.get_submodule(name)
        module.__class__ = AdaptedLinear
        assert isinstance(module, AdaptedLinear), "internal: the class was set above"
        module.start(size)
    return Prepared(model, TensorUpdate(method, model), f"{len(names)} adapters of size {size}", _reason(method))


def load(method: Method, loaded: Loaded, folder: Path) -> nn.Module:
    """Put saved adapters into the base model."""
    return load_tensors(prepare(method, loaded).model, folder)


def _reason(method: Method) -> str:
    behind = "the feed-forward part" if method.placement == "pfeiffer" else "attention and the feed-forward part"
    return f"behind {behind} of every block"
