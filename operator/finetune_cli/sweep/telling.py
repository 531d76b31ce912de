"""The status of a sweep, as a program reads it."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue

from finetune_api.status import decimal
from finetune_api.sweep import BestTrial, FineTuneSweep, FineTuneSweepStatus, TrialStatus
from finetune_api.sweep_space import trial_manifest
from finetune_api.uri import parse_uri
from finetune_cli.sweep.engine import End
from finetune_cli.sweep.search import Trial, best

_FILE = "file://"


def status_of(sweep: FineTuneSweep, trials: Sequence[Trial], end: End, folder: Path) -> FineTuneSweepStatus:
    """Return the truth about a sweep.

    Args:
        sweep: What was wanted.
        trials: Every trial.
        end: How the command ended.
        folder: Where relative addresses start.

    Returns:
        The status.
    """
    objective = sweep.spec.objective
    winner = best(sweep.spec, trials)
    return FineTuneSweepStatus(
        phase=end.phase,
        message=end.message[:1024],
        metric=objective.metric,
        direction="maximize" if objective.maximizes() else "minimize",
        trials=[trial_status(each) for each in trials],
        best=None if winner is None else _best(sweep, winner, folder),
    )


def trial_status(trial: Trial) -> TrialStatus:
    return TrialStatus(
        number=trial.number,
        state=trial.state,
        parameters=dict(trial.parameters),
        value=None if trial.value is None else decimal(trial.value),
        evaluations=len(trial.values),
        reason=trial.reason,
        message=trial.message,
    )


def _best(sweep: FineTuneSweep, trial: Trial, folder: Path) -> BestTrial:
    assert trial.value is not None, "internal: the best trial has no value"
    assert trial.artifact is not None, "internal: a complete trial without its artifact"
    manifest = trial_manifest(sweep, trial.number, trial.parameters)
    return BestTrial(
        number=trial.number,
        value=decimal(trial.value),
        metrics={name: decimal(value) for name, value in trial.metrics.items()},
        artifact=trial.artifact,
        manifest={**manifest, "spec": _absolute(manifest["spec"], folder)},
    )


def _absolute(value: JsonValue, folder: Path) -> JsonValue:
    """Return a spec whose file:// addresses no longer depend on where its manifest is."""
    if isinstance(value, list):
        return [_absolute(each, folder) for each in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, JsonValue] = {}
    for name, each in value.items():
        is_file = name == "uri" and isinstance(each, str) and each.startswith(_FILE)
        found[name] = f"{_FILE}{folder / parse_uri(each).path}" if is_file else _absolute(each, folder)  # type: ignore[arg-type]
    return found
