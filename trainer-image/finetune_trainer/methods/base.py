"""What a method is to the rest of the trainer: a model of which some parameters are trained, and how those are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from finetune_api.spec import Method
from finetune_trainer.hooks import StepHook
from finetune_trainer.models import Loaded


class Update(Protocol):
    """What was trained, apart from the base model."""

    @property
    def exact(self) -> bool:
        """Whether the saved update gives the trained model's scores bit for bit, rather than up to rounding."""
        ...

    def save(self, folder: Path, base: str) -> None:
        """Write it into a new folder; `base` is the address of the model that it belongs to."""
        ...

    def merged(self) -> dict[str, Tensor]:
        """Return the base model's weights with the update added, under the base model's names."""
        ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model ready to train: other parameters than the trained ones are frozen."""

    model: nn.Module
    update: Update | None
    """None when every weight is trained: there is nothing apart."""
    decision: str
    reason: str
    rates: Mapping[str, float] = field(default_factory=dict[str, float])
    """Parameter names to what multiplies their learning rate; 1 when absent."""
    hooks: Sequence[StepHook] = ()

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name."""
        return {name: each for name, each in self.model.named_parameters() if each.requires_grad}


class MethodModule(Protocol):
    """One file of this folder."""

    def prepare(self, method: Method, loaded: Loaded) -> Prepared:
        """Set up what is trained."""
        ...

    def load(self, method: Method, loaded: Loaded, folder: Path) -> nn.Module:
        """Put a saved update onto the base model, as a user would."""
        ...
