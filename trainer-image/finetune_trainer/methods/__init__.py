"""Which weights are trained: all of them, or a low-rank update beside frozen ones."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from finetune_api.spec import Method
from finetune_trainer.attention import attend
from finetune_trainer.dropout import use_cheap_dropout
from finetune_trainer.embedding import use_row_gradients
from finetune_trainer.lean import AttentionInterface, sdpa_attention_forward
from finetune_trainer.models import Loaded


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model ready to train: `model` computes, `peft` (if any) knows how to save and merge the update."""

    model: nn.Module
    peft: Any | None
    decision: str
    reason: str

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name."""
        return {name: each for name, each in self.model.named_parameters() if each.requires_grad}


def prepare(method: Method, loaded: Loaded) -> Prepared:
    """Set up what is trained.

    Args:
        method: The manifest's method section.
        loaded: The model, and which of its parameters are new.

    Returns:
        The same model, with other parameters frozen.
    """
    if method.type == "lora":
        from finetune_trainer.methods.lora import add_lora  # noqa: PLC0415 - peft takes seconds to import

        prepared = add_lora(method, loaded)
    else:
        prepared = Prepared(loaded.model, None, "every weight", "method.type is full")
    use_cheap_dropout(prepared.model)
    use_row_gradients(prepared.model)
    AttentionInterface.register("sdpa", _attention)
    return prepared


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
    special = causal or any(more.get(name) is not None for name in ("position_bias", "cache", "softcap"))
    if special or dropout == 0.0 or scaling is None or query.device.type != "cpu" or query.shape[1] != key.shape[1]:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    return attend(query, key, value, attention_mask, dropout_p=dropout, scaling=scaling).transpose(1, 2), None
