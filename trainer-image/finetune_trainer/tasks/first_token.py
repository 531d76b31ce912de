"""The last layer of a BERT-like classifier, computed for the first token alone.

Its head reads nothing but the first token's last hidden state, so the other tokens of the last layer need keys and
values but no query, output or feed-forward product: 10 of 12 weight products of that layer, the same scores up to
rounding. Only architectures whose head is known to read the first token are changed, and a test compares each of them.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from finetune_trainer.attention import attend

_KNOWN = frozenset(
    {"BertForSequenceClassification", "RobertaForSequenceClassification", "XLMRobertaForSequenceClassification"}
)


@contextmanager
def first_token_only(model: nn.Module) -> Generator[None]:
    """Change a model's last layer inside the block; models of other architectures are left alone."""
    found: Any = model
    if type(model).__name__ not in _KNOWN or found.config.is_decoder or found.config._attn_implementation != "sdpa":  # noqa: SLF001 - what transformers itself reads
        yield
        return
    layer: Any = found.base_model.encoder.layer[-1]
    attention: Any = layer.attention.self
    if hasattr(attention, "prefix"):  # keys and values that only the whole attention function adds
        yield
        return

    def heads(x_BTH: Tensor) -> Tensor:
        return x_BTH.unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)

    def forward(hidden_BTH: Tensor, mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        first = hidden_BTH[:, :1]
        mixed = attend(
            heads(attention.query(first)),
            heads(attention.key(hidden_BTH)),
            heads(attention.value(hidden_BTH)),
            None if mask is None else mask[:, :, :1],
            dropout_p=attention.dropout.p if attention.training else 0.0,
            scaling=attention.scaling,
        )
        return layer.feed_forward_chunk(layer.attention.output(mixed.transpose(1, 2).flatten(2), first))

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
