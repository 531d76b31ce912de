"""Updates that peft injects into linear layers: saved in its format, so that it loads them too, and merged by it."""

from importlib import import_module
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from finetune_trainer.models import Loaded

# peft reads it without importing it.
import_module("torch.distributed.tensor")
_OF_UPDATES = (".lora_", ".ia3_", ".ranknum.", ".original_module.")


class PeftUpdate:
    """An update of a PeftModel."""

    def __init__(self, peft: Any, *, exact: bool = True) -> None:
        """Remember the model.

        Args:
            peft: A PeftModel with one adapter.
            exact: False when saving converts the update.
        """
        self.peft = peft
        self.exact = exact

    def save(self, folder: Path, base: str) -> None:
        """Write peft's files."""
        self.peft.peft_config["default"].base_model_name_or_path = base
        self.peft.save_pretrained(str(folder), save_embedding_layers=False)
        # peft's own card is a form to fill in; ours stands at the root of the artifact.
        (folder / "README.md").unlink(missing_ok=True)

    def merged(self) -> dict[str, Tensor]:
        """Add the update to the weights, copy them, and take it off again by restoring the saved bits."""
        model = self.peft.get_base_model()
        frozen = {name: each.detach().clone() for name, each in model.named_parameters()}
        self.peft.merge_adapter()
        try:
            return _plain_state(model)
        finally:
            # peft would subtract what it added, or divide: restoring the bits leaves no rounding.
            for each in model.modules():
                if isinstance(each, BaseTunerLayer):
                    each.merged_adapters.clear()
            for name, each in model.named_parameters():
                each.data.copy_(frozen[name])


def inject(loaded: Loaded, config: PeftConfig) -> Any:
    """Freeze a model and put an update into it."""
    peft: Any = get_peft_model(loaded.model, config)
    assert isinstance(peft, PeftModel), "internal: peft returned another class"
    return peft


def load_peft(loaded: Loaded, folder: Path) -> nn.Module:
    """Put a saved update onto the base model, as a user of peft would."""
    return PeftModel.from_pretrained(loaded.model, str(folder)).eval()


def _plain_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights under the names that they had before peft wrapped their modules."""
    return {
        name.replace(".base_layer.", ".").replace(".modules_to_save.default.", "."): each.detach().clone()
        for name, each in model.state_dict().items()
        if not any(part in name for part in _OF_UPDATES)
    }
