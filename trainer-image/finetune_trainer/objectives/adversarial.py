"""Learn rows whose input is moved to where the loss, or the change of what is said, is largest.

Of the rows of a step a share is attacked, drawn for each row by (seed, epoch, row) as is the noise that an attack
starts from, and norms are those of a row: nothing depends on the batch that a row is in, so micro-batch, number of
processes and a resumed run give the same. The direction is searched without dropout and without gradients of weights.
Legend: K supervised elements, C classes.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune_api.spec.objective import Adversarial as Settings
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.table import INPUT_IDS, TokenTable
from finetune_trainer.errors import ConfigError
from finetune_trainer.objectives.around import Around
from finetune_trainer.objectives.divergence import counted, divergences, symmetric
from finetune_trainer.objectives.perturbing import LENGTHS, movable, moved
from finetune_trainer.tasks.base import Batch
from finetune_trainer.tasks.scoring import Learned, Scoring, total

_CHOICE, _NOISE = 1, 2
_STEPS: Mapping[str, int] = {"fgm": 1, "pgd": 3, "freelb": 2, "smart": 1}
_REACH = 2.5
"""Length of all steps together over the radius (Madry et al. 2018): from anywhere inside, the border can be reached."""


@dataclass(frozen=True, slots=True)
class Attacked(Batch):
    """The rows of a pass in two parts, each a batch of its own."""

    epoch: int
    clean: Batch | None
    attacked: Batch | None

    def to(self, device: torch.device) -> "Attacked":
        """Return both parts on a device."""
        parts = (each and each.to(device) for each in (self.clean, self.attacked))
        return Attacked(self.tensors, self.rows, self.epoch, *parts)


class Adversarial(Around):
    """A task some of whose rows are attacked in every epoch."""

    def __init__(self, task: Learned, settings: Settings, seed: int) -> None:
        """Remember the task and how it is attacked."""
        super().__init__(task)
        self._task, self._settings, self._seed = task, settings, seed
        self._steps = settings.steps or _STEPS[settings.type]

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Attacked:
        """Return the rows that are attacked in this epoch, and the others."""
        assert epoch is not None, "internal: rows that are judged are not attacked"
        draws = [np.random.default_rng((self._seed, epoch, int(row), _CHOICE)).random() for row in rows]
        chosen = np.array(draws) < self._settings.share
        return Attacked(
            {}, rows, epoch, self._part(table, rows[~chosen], epoch), self._part(table, rows[chosen], epoch)
        )

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of the rows as they are and of the others where they were moved."""
        assert isinstance(batch, Attacked), "internal: a batch of another task"
        found: list[Tensor] = []
        if batch.clean is not None:
            found.append(self._task.loss_sum(model, batch.clean))
        if batch.attacked is not None:
            found.append(self._attack(model, batch.attacked, batch.epoch))
        return torch.stack(found).sum()

    def _part(self, table: TokenTable, rows: Rows, epoch: int) -> Batch | None:
        if len(rows) == 0:
            return None
        batch = self._task.collate(table, rows, epoch)
        if INPUT_IDS not in table.ragged:
            return batch
        return Batch({**batch.tensors, LENGTHS: torch.from_numpy(table.lengths[rows])}, rows)

    def _attack(self, model: nn.Module, batch: Batch, epoch: int) -> Tensor:
        inside = movable(model, batch)
        kind = self._settings.type
        start = torch.zeros_like(inside) if kind == "fgm" else self._noise(inside, batch.rows, epoch)
        if kind == "freelb":
            return self._every_step(model, batch, start)
        if kind == "smart":
            return self._smooth(model, batch, start)
        delta = self._search(model, batch, start, lambda: self._task.loss_sum(model, batch))
        with moved(model, batch, delta):
            return self._task.loss_sum(model, batch)

    def _every_step(self, model: nn.Module, batch: Batch, start: Tensor) -> Tensor:
        """Return the mean loss of all steps: every one of them teaches (FreeLB, Zhu et al. 2020)."""
        losses: list[Tensor] = []
        delta = start
        with torch.enable_grad():
            for step in range(self._steps):
                delta = delta.detach().requires_grad_()
                with moved(model, batch, delta):
                    losses.append(self._task.loss_sum(model, batch))
                if step + 1 < self._steps:
                    delta = self._climb(losses[-1], delta, retain=True)
        return torch.stack(losses).mean()

    def _smooth(self, model: nn.Module, batch: Batch, start: Tensor) -> Tensor:
        """Return the loss and, weighted, how much scores change: no label is attacked (SMART, VAT)."""
        task = self._task
        assert isinstance(task, Scoring), "internal: a rule lists the tasks"
        with torch.no_grad(), _still(model):
            wanted = task.scored(model, batch)

        def change() -> Tensor:
            return total(self._change, wanted, task.scored(model, batch))

        delta = self._search(model, batch, start, change)
        clean = task.scored(model, batch)
        with moved(model, batch, delta):
            other = task.scored(model, batch)
        return total(self._smooth_losses, clean, other)

    def _change(self, wanted_KC: Tensor, moved_KC: Tensor, _: Mapping[str, Tensor]) -> Tensor:
        assert isinstance(self._task, Scoring), "internal: a rule lists the tasks"
        return divergences(self._task.kind, wanted_KC, moved_KC)

    def _smooth_losses(self, clean_KC: Tensor, moved_KC: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        task = self._task
        assert isinstance(task, Scoring), "internal: a rule lists the tasks"
        weight = 1.0 if self._settings.weight is None else self._settings.weight
        return task.losses(clean_KC, targets) + weight * counted(symmetric(task.kind, clean_KC, moved_KC), targets)

    def _search(self, model: nn.Module, batch: Batch, start: Tensor, value: Callable[[], Tensor]) -> Tensor:
        delta = start
        with torch.enable_grad(), _still(model):
            for _ in range(self._steps):
                delta = delta.detach().requires_grad_()
                with moved(model, batch, delta):
                    found = value()
                delta = self._climb(found, delta, retain=False)
        return delta

    def _climb(self, value: Tensor, delta: Tensor, *, retain: bool) -> Tensor:
        """Go one step along each row's gradient, and back to its radius where that leads beyond it."""
        # As the loop's own backward pass: out of autocast, which would change the formats that the forward pass chose.
        with torch.autocast(delta.device.type, enabled=False):
            found: tuple[Any, ...] = torch.autograd.grad(value, delta, retain_graph=retain, allow_unused=True)
        gradient = found[0]
        if gradient is None:
            raise ConfigError(
                "spec.training.adversarial: the loss does not depend on the model's input where it can be moved",
                remedy="Remove adversarial, or choose another method.",
            )
        radius = self._settings.radius
        length = radius if self._settings.type == "fgm" else _REACH * radius / self._steps
        further = delta.detach() + length * gradient / _norms(gradient)
        return further * (radius / _norms(further)).clamp(max=1.0)

    def _noise(self, inside: Tensor, rows: Rows, epoch: int) -> Tensor:
        """Draw a start inside the radius; a row's numbers do not depend on the padding behind it.

        Each is uniform within radius / sqrt(numbers of the row), as FreeLB's.
        """
        draws = [
            np.random.default_rng((self._seed, epoch, int(row), _NOISE)).random(inside.shape[1:], dtype=np.float32)
            for row in rows
        ]
        noise = (torch.from_numpy(np.stack(draws)).to(inside.device) * 2.0 - 1.0) * inside
        count = inside.flatten(1).sum(dim=1).view(-1, *[1] * (inside.dim() - 1))
        return noise * self._settings.radius / count.sqrt()


def _norms(each: Tensor) -> Tensor:
    """Return the norm of every row, at least the smallest number, in a shape that divides them."""
    norms_B = each.flatten(1).norm(dim=1).clamp_min(torch.finfo(each.dtype).tiny)
    return norms_B.view(-1, *[1] * (each.dim() - 1))


@contextmanager
def _still(model: nn.Module) -> Generator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
