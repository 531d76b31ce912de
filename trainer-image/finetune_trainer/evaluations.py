"""The evaluations of a run: before training when the gate asks, in its middle, and at its end.

What the model says of each row is kept in the work folder, one file per set, that of the newest evaluation. No set is
judged twice by the same weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from finetune_api.names import PREDICTIONS_FILE
from finetune_api.spec import Evaluation
from finetune_trainer.errors import Preempted
from finetune_trainer.evaluate import EvaluationStopped, Found, Judge
from finetune_trainer.judged import judged_rows, write_rows
from finetune_trainer.reporting import Reporter
from finetune_trainer.tasks.base import Encoded, rows_by_example

BASE, VALIDATION, TEST = "base", "validation", "test"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What was found of a set after some steps."""

    step: int
    found: Found


class Evaluations:
    """Judges the held-out sets of one run."""

    def __init__(
        self, wanted: Evaluation, judge: Judge, sets: Mapping[str, Encoded], reporter: Reporter, folder: Path
    ) -> None:
        """Remember what to judge.

        Args:
            wanted: The manifest's section.
            judge: Does it.
            sets: Rows by name; those that are held out are judged.
            reporter: Told every finding.
            folder: Where predictions go.
        """
        self._wanted = wanted
        self._judge = judge
        self._sets = sets
        self._reporter = reporter
        self._folder = folder
        self.newest: dict[str, Evaluated] = {}
        """The newest evaluation of each set; the untrained model's is that of `base`."""

    @property
    def watches(self) -> bool:
        """Whether there are validation rows."""
        return VALIDATION in self._sets

    @property
    def deciding(self) -> str:
        """The set that the gate looks at."""
        return TEST if TEST in self._sets else VALIDATION

    def base(self, model: nn.Module) -> float:
        """Judge the untrained model by the gate's metric.

        Args:
            model: Before its first step.

        Returns:
            The metric.

        Raises:
            Preempted: A process was asked to stop.
        """
        assert self._wanted.gate is not None, "internal: nobody compares with the untrained model"
        try:
            found = self._of(self.deciding, BASE, 0, model)
        except EvaluationStopped as error:
            raise Preempted("asked to stop before the first step", remedy="Run the same command again.") from error
        return found[self._wanted.gate.metric]

    def validate(self, step: int, model: nn.Module) -> Mapping[str, float]:
        """Judge by the validation rows in the middle of training; `EvaluationStopped` when a process is to stop."""
        return self._of(VALIDATION, VALIDATION, step, model)

    def last(self, step: int, model: nn.Module, *, judged: bool) -> dict[str, float]:
        """Judge every held-out set at the end.

        Args:
            step: Steps done.
            model: What is handed over.
            judged: Whether `validate` saw these very weights at this step; then its finding stands.

        Returns:
            The metrics to report, `set/name`, with the gate's among them.

        Raises:
            EvaluationStopped: A process was asked to stop.
        """  # noqa: DOC502
        told: dict[str, float] = {}
        for name in (VALIDATION, TEST):
            if name not in self._sets:
                continue
            stands = judged and name == VALIDATION and name in self.newest and self.newest[name].step == step
            found = self.newest[name].found.metrics if stands else self._of(name, name, step, model)
            wanted = list(self._wanted.metrics or found)
            if self._wanted.gate and name == self.deciding:
                wanted.append(self._wanted.gate.metric)
            told |= {f"{name}/{metric}": found[metric] for metric in wanted}
        return told

    def _of(self, rows: str, name: str, step: int, model: nn.Module) -> Mapping[str, float]:
        found = self._judge.judge(model, self._sets[rows])
        self.newest[name] = Evaluated(step, found)
        self._reporter.evaluation(name, step, found.metrics)
        if self._judge.group.is_main:
            notes = {"set": rows, "step": str(step), "rows": str(len(rows_by_example(found.examples)))}
            write_rows(judged_rows(self._judge.task, found), self._folder / name / PREDICTIONS_FILE, notes)
            self._judge.heartbeat()
        return found.metrics
