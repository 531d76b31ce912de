"""Go from move to move until a sweep is done: decide, write it down, run it, write down how it ended.

Knows nothing of where trials run. Whatever ends this process, the journal says what was done, and the next one goes on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from finetune_api.exit_codes import Reason
from finetune_api.result import Failure
from finetune_api.status import ArtifactStatus
from finetune_api.sweep import FineTuneSweep
from finetune_api.sweep_space import trial_manifest
from finetune_api.validation import InvalidSpec, validate_manifest
from finetune_cli.sweep.journal import Journal
from finetune_cli.sweep.proposals import propose
from finetune_cli.sweep.runner import Leg, Runner, Values
from finetune_cli.sweep.search import Move, Trial, best, next_move

_OF_THE_TRIAL = (
    Reason.NON_FINITE_LOSS,
    Reason.GATE_FAILED,
    Reason.HOST_OUT_OF_MEMORY,
    Reason.DEVICE_OUT_OF_MEMORY,
    Reason.INVALID_SPEC,
)
"""Failures that come from a trial's own values; the sweep goes on. Any other one would meet the next trial too."""
_NO_TRIAL = "no trial was complete. Change the parameters in another --workdir, or raise trials."


@dataclass(frozen=True, slots=True)
class End:
    """How a sweep's command ended."""

    phase: Literal["Complete", "Failed", "Interrupted"]
    message: str = ""


def search(sweep: FineTuneSweep, journal: Journal, runner: Runner, show: Callable[[Sequence[Trial]], None]) -> End:
    """Run a sweep to its end, from where its journal stands.

    Args:
        sweep: What is wanted.
        journal: What was done.
        runner: Where trials run.
        show: Told the trials after every change.

    Returns:
        How it ended; Complete when there is a best trial.
    """
    spec = sweep.spec
    while (move := next_move(spec, journal.trials)) is not None:
        trial = _started(sweep, journal, move)

        def told(values: Values, trial: Trial = trial) -> None:
            show([replace(each, values=values) if each.number == trial.number else each for each in journal.trials])

        told(trial.values)
        leg = _run(sweep, runner, trial, told)
        if leg.outcome == "Interrupted":
            return End("Interrupted")
        if leg.failure is not None and leg.failure.reason not in _OF_THE_TRIAL:
            return End("Failed", _told_failure(trial, leg.failure))
        journal.end(_ended(trial, leg))
        winner = best(spec, journal.trials)
        for each in journal.trials:
            if each.state == "Complete" and each is not winner:
                runner.drop(each.number)
        show(journal.trials)
    return End("Complete") if best(spec, journal.trials) else End("Failed", _NO_TRIAL)


def _started(sweep: FineTuneSweep, journal: Journal, move: Move) -> Trial:
    """Write down what is about to run, unless it was written down before an interruption."""
    trials = journal.trials
    if move.number == len(trials):
        journal.start(move, propose(sweep.spec, trials))
    elif trials[move.number].state != "Running":
        journal.start(move, None)
    return journal.trials[move.number]


def _run(sweep: FineTuneSweep, runner: Runner, trial: Trial, told: Callable[[Values], None]) -> Leg:
    try:
        job = validate_manifest(trial_manifest(sweep, trial.number, trial.parameters))
    except InvalidSpec as error:
        return Leg("Failed", failure=Failure.of(Reason.INVALID_SPEC, str(error)))
    leg = runner.run(trial.number, job, trial.until, told)
    if leg.failure is not None and leg.failure.retryable and leg.failure.reason not in _OF_THE_TRIAL:
        # It was killed, say; once more, from its checkpoint.
        leg = runner.run(trial.number, job, trial.until, told)
    return leg


def _told_failure(trial: Trial, failure: Failure) -> str:
    why = f"trial {trial.number}: {failure.reason}: {failure.message} {failure.remedy}".strip()
    return f"{why} The same command goes on."


def _ended(trial: Trial, leg: Leg) -> Trial:
    assert leg.outcome != "Interrupted", "internal: an interrupted run has no end"
    return replace(
        trial,
        state=leg.outcome,
        values=leg.values,
        metrics=leg.metrics,
        artifact=ArtifactStatus.model_validate(leg.artifact.to_dict()) if leg.artifact else None,
        reason=leg.failure.reason.value if leg.failure else "",
        message=leg.failure.message[:1024] if leg.failure else "",
    )
