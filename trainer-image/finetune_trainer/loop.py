"""The step loop: one for every task.

A step divides the loss of each micro-batch by the supervised elements of the GLOBAL batch, over passes, processes and
the ragged last batch alike; dividing per pass would over-weight short ones. Loss and gradient are checked before the
optimiser moves. Randomness is seeded by (seed, step, rank, pass), so a resumed run draws what the undisturbed one would
have.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune_api.period import Period
from finetune_api.spec import Training
from finetune_trainer import checkpoint
from finetune_trainer.coupling import introduce
from finetune_trainer.data.sampler import Rows, Sampler, split_batch
from finetune_trainer.distributed import Group
from finetune_trainer.errors import NonFiniteLoss, Preempted
from finetune_trainer.evaluate import EvaluationStopped
from finetune_trainer.evaluations import Evaluations
from finetune_trainer.hooks import StepHook, StepHooks, part
from finetune_trainer.optim import learning_rate
from finetune_trainer.optimizers import OPTIMIZERS
from finetune_trainer.reporting import Reporter
from finetune_trainer.runtime import seed_everything
from finetune_trainer.stopping import StopFlag
from finetune_trainer.tasks.base import Encoded
from finetune_trainer.tasks.metrics import is_better
from finetune_trainer.tasks.scoring import Learned
from finetune_trainer.timing import RateMeter, Timer

_STOP, _SAVE, _EVALUATE = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Schedule:
    """How far to go and what happens on the way; all counts are optimiser steps."""

    max_steps: int
    micro_batch: int
    peak_learning_rate: float
    evaluate_every: Period | None
    save_every: Period
    keep: int


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run is made of."""

    task: Learned
    model: nn.Module
    parameters: Mapping[str, nn.Parameter]
    train: Encoded
    evaluations: Evaluations
    group: Group
    reporter: Reporter
    stop: StopFlag
    autocast: Callable[[], torch.autocast]
    rates: Mapping[str, float] = field(default_factory=dict[str, float])
    hooks: StepHook = field(default_factory=lambda: StepHooks(()))


class Loop:
    """Trains until the last step, an early stop, a request to stop, or a failure."""

    def __init__(self, parts: Parts, schedule: Schedule, training: Training, folder: Path) -> None:
        """Prepare optimiser and order.

        Args:
            parts: What the run is made of.
            schedule: How far to go.
            training: The manifest's training section.
            folder: Where checkpoints go.
        """
        self._parts = parts
        self._schedule = schedule
        self._training = training
        self._folder = folder
        self._table = parts.train.table
        self._lengths = self._table.lengths
        self.sampler = Sampler(self._lengths, training.batch_size, training.seed)
        self._optimizer = OPTIMIZERS[training.optimizer](parts.parameters, training.weight_decay, parts.rates)
        self.step = 0
        self.saved_step: int | None = None
        self._best: dict[str, Tensor] = {}
        self._best_value = math.nan
        self._without_gain, self._owes_evaluation = 0, False
        self._save_timer = Timer(schedule.save_every, self.sampler.steps_per_epoch)
        self._evaluate_timer = Timer(schedule.evaluate_every or Period(epochs=1.0), self.sampler.steps_per_epoch)
        self._rate_meter = RateMeter()
        parts.hooks.begin(schedule.max_steps, self.sampler.steps_per_epoch)

    def run(self, meta: Mapping[str, Any]) -> None:
        """Train from where the state stands.

        Args:
            meta: JSON values to keep in every checkpoint.

        Raises:
            NonFiniteLoss: Loss or gradient is not finite; nothing was changed by that step.
            Preempted: Asked to stop; a checkpoint is saved.
            StorageUnavailable: A checkpoint cannot be written.
        """  # noqa: DOC502
        self._parts.model.train()
        while self._owes_evaluation or (self.step < self._schedule.max_steps and not self._patience_is_over()):
            flags = [False, False, False, True] if self._owes_evaluation else self._train_step()
            self._owes_evaluation = flags[_EVALUATE] and (flags[_STOP] or not self._evaluate())
            if flags[_STOP] or self._owes_evaluation:
                self.stop_now(meta)
            if flags[_SAVE]:
                self.save(meta)
        self._parts.hooks.finish()
        self._restore_best()

    def stop_now(self, meta: Mapping[str, Any]) -> None:
        """Save and leave.

        Args:
            meta: JSON values to keep in the checkpoint.

        Raises:
            Preempted: Always.
        """
        self.save(meta)
        raise Preempted(
            f"asked to stop after step {self.step} of {self._schedule.max_steps}; a checkpoint is saved",
            remedy="Run the same command again; it continues from there.",
        )

    def save(self, meta: Mapping[str, Any]) -> None:
        """Write a checkpoint of this step, unless there is one."""
        if self.saved_step == self.step:
            return
        if self._parts.group.is_main:
            place = checkpoint.save(self._folder, self._state(meta), self._schedule.keep)
            self._parts.reporter.checkpoint(self.step, f"{self._folder.name}/{place.name}")
        self.saved_step = self.step

    def restore(self, state: checkpoint.TrainState) -> None:
        """Continue from a checkpoint's state."""
        tensors = state.tensors
        with torch.no_grad():
            for name, parameter in self._parts.parameters.items():
                parameter.copy_(tensors[f"model/{name}"])
        self._optimizer.restore(part(tensors, "optimizer/"))
        self._parts.hooks.restore(tensors)
        self._best = part(tensors, "best/")
        self._best_value = float(state.meta["bestValue"]) if self._best else math.nan
        self._without_gain = int(state.meta["withoutGain"])
        self._owes_evaluation = bool(state.meta.get("owesEvaluation"))
        self.step = self.saved_step = state.step

    def _state(self, meta: Mapping[str, Any]) -> checkpoint.TrainState:
        tensors = {f"model/{name}": each.detach() for name, each in self._parts.parameters.items()}
        tensors |= {f"optimizer/{name}": each for name, each in self._optimizer.state().items()}
        tensors |= {f"best/{name}": each for name, each in self._best.items()}
        tensors |= self._parts.hooks.state()
        kept = {"bestValue": self._best_value if self._best else None, "withoutGain": self._without_gain}
        kept["owesEvaluation"] = self._owes_evaluation
        return checkpoint.TrainState(self.step, tensors, {**meta, **kept})

    def _train_step(self) -> list[bool]:
        """Do one optimiser step; return whether to stop, save and evaluate, agreed between processes."""
        parts, started = self._parts, time.monotonic()
        epoch = self.step // self.sampler.steps_per_epoch
        rows = self.sampler.batch(self.step)
        targets = torch.as_tensor(parts.task.targets(self._table, rows, epoch), device=parts.group.device)
        mine = split_batch(rows, self._lengths, self._schedule.micro_batch, parts.group.world)[parts.group.rank]
        parts.hooks.before_step(self.step)
        batches = [parts.task.collate(self._table, piece, epoch).to(parts.group.device) for piece in mine]
        batches = introduce(parts.task, parts.model, batches, parts.group, self._begin_pass)
        share = torch.zeros((), dtype=torch.float32, device=parts.group.device)
        for number, batch in enumerate(batches):
            with self._begin_pass(number):
                loss = (parts.task.loss_sum(parts.model, batch) / targets).sum()
            loss.backward()
            share += loss.detach()
            parts.reporter.heartbeat()
        control = torch.stack([share.double(), *self._wishes()])
        parts.group.sum_(control)
        parts.group.sum_gradients([each for each in parts.parameters.values() if each.requires_grad])
        mean_loss = float(control[0])
        norm, rate = self._update(mean_loss, mine, epoch)
        self.step += 1
        self._rate_meter.add(len(rows), int(self._lengths[rows].sum()), time.monotonic() - started)
        self._report(mean_loss, norm, rate)
        return [bool(flag) for flag in (control > 0).tolist()]

    def _begin_pass(self, number: int) -> torch.autocast:
        """Seed a pass of the step under way, and return its number format."""
        seed_everything(self._training.seed, self.step, self._parts.group.rank, number)
        return self._parts.autocast()

    def _wishes(self) -> list[Tensor]:
        """Return 1 for stop, save and evaluate where this process asks for it, for the step under way."""
        parts, done = self._parts, self.step + 1
        save = parts.group.is_main and self._save_timer.due(done)
        watched = parts.evaluations.watches and parts.group.is_main
        evaluate = watched and (self._evaluate_timer.due(done) or done == self._schedule.max_steps)
        return [torch.tensor(float(each), dtype=torch.float64) for each in (parts.stop.requested, save, evaluate)]

    def _update(self, mean_loss: float, mine: list[Rows], epoch: int) -> tuple[float, float]:
        self._parts.hooks.before_update(self.step)
        parameters = [each for each in self._parts.parameters.values() if each.grad is not None]
        norm = torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        norm_value = float(norm)
        if not math.isfinite(mean_loss) or not math.isfinite(norm_value):
            self._refuse(mean_loss, norm_value, mine, epoch)
        limit = self._training.gradient_clip
        if limit and norm_value > limit:
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        rate = learning_rate(self._training, self._schedule.peak_learning_rate, self.step, self._schedule.max_steps)
        self._optimizer.step(rate)
        self._parts.hooks.after_update(self.step)
        return norm_value, rate

    def _refuse(self, mean_loss: float, norm: float, mine: list[Rows], epoch: int) -> None:
        """Find the rows whose loss is not finite, one by one, and stop."""
        parts = self._parts
        culprits: list[str] = []
        parts.model.eval()
        for row in (row for piece in mine for row in piece):
            batch = parts.task.collate(self._table, row.reshape(1), epoch).to(parts.group.device)
            with torch.no_grad(), parts.autocast():
                if not math.isfinite(float(parts.task.loss_sum(parts.model, batch).sum())):
                    culprits.append(parts.train.examples[int(row)].place)
        everyone = sorted({place for places in parts.group.gather(culprits) for place in places})
        first = sorted(parts.train.examples[int(row)].place for piece in mine for row in piece)
        blamed = f"not finite on {', '.join(everyone[:5])}"
        if not everyone:
            blamed = f"finite on each row alone; the batch began with {', '.join(first[:5])}"
        raise NonFiniteLoss(
            f"step {self.step + 1}: loss {mean_loss:g}, gradient norm {norm:g}; {blamed}",
            remedy="Look at these rows, lower training.learningRate, or set training.precision: fp32. "
            "The last checkpoint is kept.",
        )

    def _report(self, mean_loss: float, norm: float, rate: float) -> None:
        if not self._rate_meter.due(last=self.step in {1, self._schedule.max_steps}):
            return
        samples, tokens, seconds_per_step = self._rate_meter.take()
        self._parts.reporter.progress(
            {
                "step": self.step,
                "maxSteps": self._schedule.max_steps,
                "epoch": self.step / self.sampler.steps_per_epoch,
                "percent": 100 * self.step // self._schedule.max_steps,
                "loss": mean_loss,
                "samplesPerSecond": samples,
                "tokensPerSecond": tokens,
                "learningRate": rate,
                "gradientNorm": norm,
                "etaSeconds": seconds_per_step * (self._schedule.max_steps - self.step),
            }
        )

    def _evaluate(self) -> bool:
        self._parts.hooks.before_judging()
        try:
            return self._judge()
        finally:
            self._parts.hooks.after_judging()

    def _judge(self) -> bool:
        """Judge on the validation rows; False, on every process, when one of them was asked to stop."""
        parts, stopping = self._parts, self._training.early_stopping
        try:
            found = parts.evaluations.validate(self.step, parts.model)
        except EvaluationStopped:
            return False
        if stopping is None:
            return True
        value = found[stopping.metric]
        if not self._best or is_better(stopping.metric, value, self._best_value):
            self._best = {name: each.detach().clone() for name, each in parts.parameters.items()}
            self._best_value, self._without_gain = value, 0
        else:
            self._without_gain += 1
        return True

    @property
    def judged(self) -> bool:
        """Whether an evaluation after the last step saw the weights that are handed over: no older ones were better."""
        return not self._best or self._without_gain == 0

    def _patience_is_over(self) -> bool:
        stopping = self._training.early_stopping
        return stopping is not None and self._without_gain >= stopping.patience

    def _restore_best(self) -> None:
        with torch.no_grad():
            for name, each in self._best.items():
                self._parts.parameters[name].copy_(each)
