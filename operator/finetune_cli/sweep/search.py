"""Decide what a sweep does next.

Pure: the same sweep and the same trials give the same move, so a sweep that was killed goes on as if it had not been.
With early stopping it is ASHA (Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020) in its
promoting form: trials pause after `first * reduction^k` evaluations, and the best of those that came so far go on.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from finetune_api.exit_codes import Reason
from finetune_api.status import ArtifactStatus
from finetune_api.sweep import FineTuneSweepSpec, Halving, TrialState
from finetune_api.sweep_space import grid_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is known of a trial."""

    number: int
    parameters: Mapping[str, JsonValue]
    state: TrialState = "Running"
    until: int | None = None
    """Evaluations after which it pauses; None runs it to its end."""
    values: tuple[float | None, ...] = ()
    """The objective after each evaluation; None where it is not finite."""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    artifact: ArtifactStatus | None = None
    reason: str = ""
    message: str = ""

    @property
    def value(self) -> float | None:
        """The objective at the last evaluation."""
        return self.values[-1] if self.values else None


@dataclass(frozen=True, slots=True)
class Move:
    """Run a trial until so many evaluations; one whose number is new is proposed first."""

    number: int
    until: int | None


def next_move(spec: FineTuneSweepSpec, trials: Sequence[Trial]) -> Move | None:
    """Return what to run next, None when the sweep is done.

    Args:
        spec: The sweep.
        trials: Every trial so far, in the order of their numbers.

    Returns:
        The move that was interrupted, else a promotion, else a new trial; when there is neither and nothing was trained
        to its end, the best trial that waits is.
    """
    for trial in trials:
        if trial.state == "Running":
            return Move(trial.number, trial.until)
    halving = spec.early_stopping
    promotion = _promotion(spec, halving, trials) if halving else None
    if promotion is not None:
        return promotion
    if len(trials) < planned(spec):
        return Move(len(trials), halving.first if halving else None)
    paused = [each for each in trials if each.state == "Paused"]
    if not paused or any(_was_judged(each) for each in trials):
        return None
    farthest = max(len(each.values) for each in paused)
    candidates = ranked(spec, [each for each in paused if len(each.values) == farthest], farthest)
    return Move(candidates[0].number, None)


def planned(spec: FineTuneSweepSpec) -> int:
    """Return how many trials there will be."""
    return min(spec.trials, grid_size(spec)) if spec.algorithm.type == "grid" else spec.trials


def best(spec: FineTuneSweepSpec, trials: Sequence[Trial]) -> Trial | None:
    """Return the complete trial with the best value, the first of equals."""
    complete = [each for each in trials if each.state == "Complete"]
    return min(complete, key=lambda each: _loss(spec, each.value), default=None)


def ranked(spec: FineTuneSweepSpec, trials: Sequence[Trial], evaluations: int) -> list[Trial]:
    """Return the trials that came to so many evaluations, the best after these first."""
    came = [each for each in trials if len(each.values) >= evaluations]
    return sorted(came, key=lambda each: _loss(spec, each.values[evaluations - 1]))


def _promotion(spec: FineTuneSweepSpec, halving: Halving, trials: Sequence[Trial]) -> Move | None:
    """Return the best trial that may go on from the highest pause where one may."""
    pauses = sorted({each.until for each in trials if each.state == "Paused" and each.until is not None}, reverse=True)
    for pause in pauses:
        came = ranked(spec, trials, pause)
        for trial in came[: len(came) // halving.reduction]:
            if trial.state == "Paused" and trial.until == pause:
                return Move(trial.number, pause * halving.reduction)
    return None


def _was_judged(trial: Trial) -> bool:
    """Tell whether a trial was trained to its end."""
    return trial.state == "Complete" or trial.reason == Reason.GATE_FAILED


def _loss(spec: FineTuneSweepSpec, value: float | None) -> float:
    """Return what is smaller for better values; sorting keeps the order of numbers among equals."""
    if value is None or not math.isfinite(value):
        return math.inf
    return -value if spec.objective.maximizes() else value
