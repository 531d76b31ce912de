"""IA3 (Liu et al. 2022), by peft: one trained factor per key, per value and per inner feed-forward unit."""

from pathlib import Path

from peft import IA3Config
from torch import nn

from finetune_api.spec import Method
from finetune_trainer.methods.base import Prepared
from finetune_trainer.methods.layers import feed_forward_outputs, keys_and_values, new_modules
from finetune_trainer.methods.peft_update import PeftUpdate, inject, load_peft
from finetune_trainer.models import Loaded


def prepare(method: Method, loaded: Loaded) -> Prepared:  # noqa: ARG001 - it has no fields
    """Freeze a model and add factors, all of them one at the start."""
    inner = feed_forward_outputs(loaded.model)
    outer = [name for pair in keys_and_values(loaded.model).values() for name in pair]
    config = IA3Config(
        target_modules=inner + outer, feedforward_modules=inner, modules_to_save=new_modules(loaded) or None
    )
    peft = inject(loaded, config)
    reason = "keys, values and the inner units of every block"
    return Prepared(peft.get_base_model(), PeftUpdate(peft), f"{len(inner) + len(outer)} layers scaled", reason)


def load(method: Method, loaded: Loaded, folder: Path) -> nn.Module:  # noqa: ARG001 - peft's files say it all
    """Put saved factors onto the base model."""
    return load_peft(loaded, folder)
