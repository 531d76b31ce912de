"""Updates that are kept as plain tensors: what was trained, by name, and the method section that made it."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from finetune_api.spec import Method
from finetune_trainer.errors import ConfigError

_TENSORS, _ABOUT = "update.safetensors", "update.json"


class TensorUpdate:
    """The trained parameters themselves."""

    exact = True

    def __init__(self, method: Method, model: nn.Module) -> None:
        """Remember which parameters are trained.

        Args:
            method: The manifest's method section.
            model: Only what is trained requires a gradient.
        """
        self._method = method
        self._model = model
        self._names = [name for name, each in model.named_parameters() if each.requires_grad]

    def save(self, folder: Path, base: str) -> None:
        """Write tensors and what made them."""
        folder.mkdir()
        parameters = dict(self._model.named_parameters())
        tensors = {name: parameters[name].detach().cpu().contiguous() for name in self._names}
        save_file(tensors, folder / _TENSORS)
        about = {"version": 1, "base": base, "method": self._method.to_dict()}
        (folder / _ABOUT).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def merged(self) -> dict[str, Tensor]:
        """There is no such form: the contract's rules refuse it before a run."""
        raise AssertionError("internal: this method has no merged form")


def load_tensors(model: nn.Module, folder: Path) -> nn.Module:
    """Put saved tensors into a model that was prepared by the same method.

    Args:
        model: Prepared, in evaluation mode afterwards.
        folder: What `TensorUpdate.save` wrote.

    Returns:
        The model.

    Raises:
        ConfigError: The tensors belong to another model or method.
    """
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in load_file(folder / _TENSORS).items():
            if name not in parameters or parameters[name].shape != tensor.shape:
                raise ConfigError(
                    f"{folder.name}: the model has no {name} of shape {tuple(tensor.shape)}",
                    remedy="Load it onto the model that update.json names.",
                )
            parameters[name].copy_(tensor)
    return model.eval()


def saved_method(folder: Path) -> Method:
    """Return the method section that made an update."""
    return Method.model_validate(json.loads((folder / _ABOUT).read_text(encoding="utf-8"))["method"])
