"""The parts of transformers that the trainer uses, imported without those that it never does.

Importing a model class of transformers also imports torch's compiler, sympy, tensor parallelism, flex attention, scipy
and accelerate: more than half of the time from the command to the first step. They are told to be absent while the
import runs and only then; the tasks here neither compile nor shard a model. What such a part decorates stays plain.
A task whose loss needs scipy (matching in object detection) must import that loss itself.
"""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import nn

_ABSENT = (
    "is_accelerate_available",
    "is_scipy_available",
    "is_torch_distributed_available",
    "is_torch_flex_attn_available",
)


def _plain(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    """Decorate nothing, with or without arguments."""
    return _plain if function is None else function


class _TransformGetItemToIndex:
    """Is torch's own as soon as it is used: masks of unusual models need it, and its import is the compiler's."""

    def __new__(cls) -> Any:
        from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex  # noqa: PLC0415

        return TransformGetItemToIndex()


def _fills(name: str) -> bool:
    return name.endswith("_") and not name.startswith("_")


def _only_with_storage(fill: Callable[..., Any]) -> Callable[..., Any]:
    """Return an initialisation that leaves a tensor without storage alone: there is nothing to fill."""

    def wrapped(tensor: torch.Tensor, *args: Any, **more: Any) -> Any:
        return tensor if tensor.is_meta else fill(tensor, *args, **more)

    return wrapped


def _empty_like(like: torch.Tensor, **more: Any) -> torch.Tensor:
    """Make the storage of a tensor that has none; torch's own way asks symbolic sizes, which import sympy."""
    if like.is_meta and set(more) == {"device"}:
        return torch.empty(like.shape, dtype=like.dtype, **more)
    return _TORCH_EMPTY_LIKE(like, **more)


_TORCH_EMPTY_LIKE = torch.empty_like


def _stand_ins() -> dict[str, ModuleType | None]:
    """Return what stands in for torch's compiler and for sharded tensors (an absent module) where not imported yet."""
    compiler, transform = ModuleType("torch._dynamo"), ModuleType("torch._dynamo._trace_wrapped_higher_order_op")
    for name in ("disable", "allow_in_graph", "assume_constant_result"):
        setattr(compiler, name, _plain)
    setattr(transform, "TransformGetItemToIndex", _TransformGetItemToIndex)  # noqa: B010 - a module has no such attribute
    found = {compiler.__name__: compiler, transform.__name__: transform, "torch.distributed.tensor": None}
    return {name: module for name, module in found.items() if name not in sys.modules}


@contextmanager
def lean(*, gguf: bool = False) -> Generator[None]:
    """Import modules of transformers, and load models, without what is not needed for it.

    Everything is as it was afterwards; what was imported before stays in use.

    Args:
        gguf: Whether a GGUF file is loaded: transformers asks for accelerate then, and uses nothing of it.
    """
    import transformers.utils  # noqa: PLC0415 - light; the heavy imports follow
    from transformers.utils import import_utils  # noqa: PLC0415

    modules = _stand_ins()
    changes: list[tuple[Any, str, Any]] = [
        (torch.compiler, "disable", _plain),
        (torch.compiler, "allow_in_graph", _plain),
        (torch, "empty_like", _empty_like),
    ]
    changes += [(nn.init, name, _only_with_storage(getattr(nn.init, name))) for name in vars(nn.init) if _fills(name)]
    changes += [(place, name, lambda: False) for name in _ABSENT for place in (transformers.utils, import_utils)]
    if gguf:
        from transformers import modeling_utils  # noqa: PLC0415

        changes.append((modeling_utils, "is_accelerate_available", lambda: True))
    # torch imports its compiler when this attribute is first read.
    changes += [(torch, "_dynamo", modules[name]) for name in ("torch._dynamo",) if name in modules]
    before = [(place, name, vars(place).get(name)) for place, name, _ in changes]
    for place, name, stand_in in changes:
        setattr(place, name, stand_in)
    sys.modules.update(modules)  # type: ignore[arg-type] - None is how Python itself notes an absent module
    try:
        yield
    finally:
        for name, module in modules.items():
            if sys.modules.get(name, module) is module:
                sys.modules.pop(name, None)
        for place, name, value in before:
            if value is None:
                delattr(place, name)
            else:
                setattr(place, name, value)


with lean():
    from transformers import (
        AttentionInterface,
        AutoConfig,
        AutoModel,
        AutoModelForAudioClassification,
        AutoModelForCausalLM,
        AutoModelForCTC,
        AutoModelForImageClassification,
        AutoModelForImageTextToText,
        AutoModelForMaskedLM,
        AutoModelForMultipleChoice,
        AutoModelForObjectDetection,
        AutoModelForPreTraining,
        AutoModelForQuestionAnswering,
        AutoModelForSemanticSegmentation,
        AutoModelForSeq2SeqLM,
        AutoModelForSequenceClassification,
        AutoModelForSpeechSeq2Seq,
        AutoModelForTokenClassification,
        PretrainedConfig,
        PreTrainedModel,
    )
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

__all__ = [
    "AttentionInterface",
    "AutoConfig",
    "AutoModel",
    "AutoModelForAudioClassification",
    "AutoModelForCTC",
    "AutoModelForCausalLM",
    "AutoModelForImageClassification",
    "AutoModelForImageTextToText",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForObjectDetection",
    "AutoModelForPreTraining",
    "AutoModelForQuestionAnswering",
    "AutoModelForSemanticSegmentation",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSequenceClassification",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForTokenClassification",
    "PreTrainedModel",
    "PretrainedConfig",
    "lean",
    "sdpa_attention_forward",
]
