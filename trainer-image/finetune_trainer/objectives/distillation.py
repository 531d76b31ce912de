"""Learn from a teacher's scores beside the labels (Hinton et al. 2015).

The teacher runs in the pass that learns from it: token scores of a whole set would not fit on a disk, and it sees the
same augmented image. It is frozen and without dropout, so what it says of a row is the same in every division of the
work. Legend: K supervised elements, C classes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from finetune_trainer.objectives.around import Around
from finetune_trainer.objectives.divergence import counted, divergences
from finetune_trainer.prefix import STATES
from finetune_trainer.tasks.base import Batch
from finetune_trainer.tasks.scoring import Kind, Scored, Scoring, own_loss

_TEACHER = "teacher"


class Distilled(Around):
    """A task whose loss is (1 - weight) of its own and `weight` of T^2 KL(teacher / T || model / T)."""

    def __init__(self, task: Scoring, teacher: nn.Module, weight: float, temperature: float) -> None:
        """Freeze the teacher.

        Args:
            task: What is learned from the labels.
            teacher: A model with a head of the same classes, on the device of the trained one.
            weight: Part of the loss that is the teacher's.
            temperature: What scores are divided by.
        """
        super().__init__(task)
        self._task, self._teacher = task, teacher.eval().requires_grad_(False)
        self._weight, self._temperature = weight, temperature
        self._told: tuple[Batch, Scored] | None = None

    @property
    def kind(self) -> Kind:
        """The task's."""
        return self._task.kind

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return both parts' sum."""
        return own_loss(self, model, batch)

    def scored(self, model: nn.Module, batch: Batch) -> Scored:
        """Run the model and, once per batch, the teacher; its hidden states are one of the targets."""
        mine = self._task.scored(model, batch)
        return Scored(mine.hidden, mine.head, {**mine.targets, _TEACHER: self._tell(batch).hidden})

    def losses(self, scores_KC: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Return both parts of each element's loss, [K]."""
        assert self._told is not None, "internal: losses before scores"
        with torch.no_grad():
            wanted_KC = self._told[1].head(targets[_TEACHER]).float()
        t = self._temperature
        apart_K = t * t * divergences(self.kind, wanted_KC / t, scores_KC / t)
        own_K = self._task.losses(scores_KC, targets)
        return (1.0 - self._weight) * own_K + self._weight * counted(apart_K, targets)

    def _tell(self, batch: Batch) -> Scored:
        if self._told is None or self._told[0] is not batch:
            # States are those of the trained model's frozen blocks, not of the teacher's.
            inputs = {name: each for name, each in batch.tensors.items() if name != STATES}
            with torch.no_grad():
                self._told = (batch, self._task.scored(self._teacher, Batch(inputs, batch.rows)))
        return self._told[1]
