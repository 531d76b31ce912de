"""What the types of methods have in common: their fields, and the forms of their artifacts."""

from collections.abc import Mapping
from typing import Final

_LOW_RANK: Final = ("lora", "adalora")
OWN_WEIGHTS: Final = ("full", "bitfit", "layer-norm", "head", "top-layers", "encoder", "decoder")
"""Methods that train weights of the model itself: their artifact is a whole model."""
MERGED: Final = ("lora", "adalora", "ia3")
"""Methods whose update can be added to the model's weights."""
METHOD_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "rank": _LOW_RANK,
    "alpha": _LOW_RANK,
    "dropout": _LOW_RANK,
    "targets": _LOW_RANK,
    "targetRank": ("adalora",),
    "ranks": ("lora",),
    "alphas": ("lora",),
    "rslora": ("lora",),
    "dora": ("lora",),
    "init": ("lora",),
    "rateRatio": ("lora",),
    "size": ("bottleneck",),
    "placement": ("bottleneck",),
    "virtualTokens": ("prompt-tuning", "p-tuning", "prefix-tuning"),
    "layers": ("top-layers",),
    "layerDecay": ("full", "top-layers"),
    "unfreezeEvery": ("full", "top-layers"),
}
"""The fields of the method section, and the types that have them."""
