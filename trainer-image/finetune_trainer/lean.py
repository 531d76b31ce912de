"""The parts of transformers that the trainer uses, imported without those that it never does.

Importing a model class of transformers also imports torch's compiler, sympy, tensor parallelism, flex attention, scipy
and accelerate: more than half of the time from the command to the first step. They are told to be absent while the
import runs and only then; the tasks here neither compile nor shard a model. What such a part decorates stays plain.
A task whose loss needs scipy (matching in object detection) must import that loss itself.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

_ABSENT = (
    "is_accelerate_available",
    "is_scipy_available",
    "is_torch_distributed_available",
    "is_torch_flex_attn_available",
)


def _plain(function: Callable[..., Any] | None = None, **_: Any) -> Any:
    """Decorate nothing, with or without arguments."""
    return _plain if function is None else function


@contextmanager
def _lean() -> Generator[None]:
    import transformers.utils  # noqa: PLC0415 - light; the heavy imports follow
    from transformers.utils import import_utils  # noqa: PLC0415

    compiler = SimpleNamespace(disable=_plain, allow_in_graph=_plain, assume_constant_result=_plain)
    changes: list[tuple[Any, str, Any]] = [
        (torch.compiler, "disable", _plain),
        (torch.compiler, "allow_in_graph", _plain),
    ]
    changes += [(place, name, lambda: False) for name in _ABSENT for place in (transformers.utils, import_utils)]
    # torch imports its compiler when this attribute is first read.
    changes.append((torch, "_dynamo", compiler))
    before = [(place, name, vars(place).get(name)) for place, name, _ in changes]
    for place, name, stand_in in changes:
        setattr(place, name, stand_in)
    try:
        yield
    finally:
        for place, name, value in before:
            if value is None:
                delattr(place, name)
            else:
                setattr(place, name, value)


with _lean():
    from transformers import (
        AttentionInterface,
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForSequenceClassification,
        PretrainedConfig,
        PreTrainedModel,
    )
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

__all__ = [
    "AttentionInterface",
    "AutoConfig",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForSequenceClassification",
    "PreTrainedModel",
    "PretrainedConfig",
    "sdpa_attention_forward",
]
