"""What the manifest leaves open: decided once per job by measuring, reported with the reason, kept in checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from finetune_api.period import parse_period
from finetune_api.run_config import RunConfig
from finetune_api.spec import Training
from finetune_trainer import runtime
from finetune_trainer.data.table import TokenTable
from finetune_trainer.distributed import Group
from finetune_trainer.loop import Schedule
from finetune_trainer.optim import default_learning_rate
from finetune_trainer.reporting import Reporter
from finetune_trainer.runtime import Decision

_MICRO_BATCH = "microBatch"


def planned_steps(training: Training, steps_per_epoch: int) -> int:
    """Return the optimiser steps of a run: at least one, but none when the model is to be judged as it is."""
    if training.epochs == 0:
        return 0
    return training.max_steps or max(1, round((training.epochs or 0.0) * steps_per_epoch))


class Deciding:
    """Makes the decisions of one run; `kept` are those of the checkpoint that it continues from."""

    def __init__(self, config: RunConfig, group: Group, reporter: Reporter, kept: Mapping[str, str] | None) -> None:
        """Remember what to decide from."""
        self._config = config
        self._group = group
        self._reporter = reporter
        self._kept = kept

    def machine(self) -> dict[str, str]:
        """Decide threads and number format, the same on every process, and set the threads."""
        if self._kept is not None:
            decided = dict(self._kept)
            told = ", ".join(f"{name} {value}" for name, value in decided.items())
            self._reporter.decision(Decision("machine", told, "kept from the checkpoint"))
        else:
            made = [
                runtime.choose_threads(self._group.world if self._group.device.type == "cpu" else 1),
                runtime.choose_dtype(self._config.spec.training.precision, self._group.device),
            ]
            for decision in made:
                self._reporter.decision(decision)
            decided = self._group.gather({each.name: each.value for each in made})[0]
        torch.set_num_threads(int(decided["threads"]))
        return decided

    def schedule(self, decided: dict[str, str], model: nn.Module, table: TokenTable) -> Schedule:
        """Decide micro-batch, learning rate and length.

        Args:
            decided: What is decided already; the micro-batch is added.
            model: The model, for its config.
            table: The training rows.

        Returns:
            How far to go and what happens on the way.
        """
        spec, training = self._config.spec, self._config.spec.training
        micro = self._micro_batch(decided, model, table)
        self._reporter.decision(micro)
        decided[_MICRO_BATCH] = micro.value
        rate = training.learning_rate
        if rate is None:
            rate = default_learning_rate(spec.method.type, pretrained=spec.model.weights == "pretrained")
            self._reporter.decision(Decision("learningRate", f"{rate:g}", f"the default of method {spec.method.type}"))
        steps_per_epoch = -(-len(table) // training.batch_size)
        every = spec.evaluation.every
        return Schedule(
            planned_steps(training, steps_per_epoch),
            int(micro.value),
            rate,
            parse_period(every) if every else None,
            parse_period(spec.checkpoint.every),
            spec.checkpoint.keep,
        )

    def _micro_batch(self, decided: Mapping[str, str], model: nn.Module, table: TokenTable) -> Decision:
        if self._config.micro_batch is not None:
            return Decision(_MICRO_BATCH, str(self._config.micro_batch), "lowered after running out of memory")
        if _MICRO_BATCH in decided:
            return Decision(_MICRO_BATCH, decided[_MICRO_BATCH], "kept from the checkpoint")
        config: Any = model.config
        share = max(1, -(-self._config.spec.training.batch_size // self._group.world))
        found = runtime.choose_micro_batch(config, share, int(table.lengths.max()), self._group.device)
        return Decision(found.name, self._group.gather(found.value)[0], found.reason)
