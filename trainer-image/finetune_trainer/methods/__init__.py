"""Which weights are trained: all of them, or a low-rank update beside frozen ones."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from finetune_api.spec import Method
from finetune_trainer.dropout import use_cheap_dropout
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
    return prepared
