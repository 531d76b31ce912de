"""Choose the values of a new trial.

Pure: a proposal follows from the sweep's seed, the trial's number and the trials before it. Optuna is the sampler only:
its study is made anew from the trials for each proposal, and nothing of it is kept.
"""

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import JsonValue

from finetune_api.sweep import FineTuneSweepSpec, Parameter
from finetune_api.sweep_space import grid_point
from finetune_cli.sweep.search import Trial

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_DIGITS = 6


def propose(spec: FineTuneSweepSpec, trials: Sequence[Trial]) -> dict[str, JsonValue]:
    """Return the values of the next trial.

    Args:
        spec: The sweep.
        trials: Every trial so far; none of them runs.

    Returns:
        Path to value, in the order of the parameters.
    """
    if spec.algorithm.type == "grid":
        return grid_point(spec, len(trials))
    spaces = {each.path: _space(each) for each in spec.parameters}
    study = _study(spec, len(trials))
    study.add_trials([_told(spec, each, spaces) for each in trials])
    drawn = study.ask(spaces).params
    return {each.path: _value(each, drawn[each.path]) for each in spec.parameters}


def _study(spec: FineTuneSweepSpec, number: int) -> "Study":
    import optuna  # noqa: PLC0415 - a second that other commands do not need

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = zlib.crc32(f"{spec.seed}/{number}".encode())
    samplers = optuna.samplers
    sampler = samplers.TPESampler(seed=seed) if spec.algorithm.type == "tpe" else samplers.RandomSampler(seed=seed)
    return optuna.create_study(sampler=sampler, direction="maximize" if spec.objective.maximizes() else "minimize")


def _space(parameter: Parameter) -> "BaseDistribution":
    from optuna import distributions  # noqa: PLC0415 - as above

    if parameter.values is not None:
        # By index: optuna's choices cannot be sections.
        return distributions.CategoricalDistribution(range(len(parameter.values)))
    assert parameter.min is not None, "internal: a range without its ends"
    assert parameter.max is not None, "internal: a range without its ends"
    if parameter.type == "int":
        return distributions.IntDistribution(int(parameter.min), int(parameter.max))
    return distributions.FloatDistribution(parameter.min, parameter.max, log=parameter.type == "loguniform")


def _value(parameter: Parameter, drawn: float) -> JsonValue:
    """Return the value for the manifest; six digits say enough there."""
    if parameter.values is not None:
        return parameter.values[int(drawn)]
    if parameter.type == "int":
        return int(drawn)
    assert parameter.min is not None, "internal: a range without its ends"
    assert parameter.max is not None, "internal: a range without its ends"
    return min(max(float(f"{drawn:.{_DIGITS}g}"), parameter.min), parameter.max)


def _told(spec: FineTuneSweepSpec, trial: Trial, spaces: "dict[str, BaseDistribution]") -> "FrozenTrial":
    """Return a trial as optuna knows it: one that paused or failed counts by how far it came."""
    from optuna.trial import TrialState, create_trial  # noqa: PLC0415 - as above

    drawn = {
        each.path: trial.parameters[each.path]
        if each.values is None
        else each.values.index(trial.parameters[each.path])
        for each in spec.parameters
    }
    if trial.state == "Complete" and trial.value is not None:
        return create_trial(value=trial.value, params=drawn, distributions=spaces)
    values = {step: value for step, value in enumerate(trial.values) if value is not None}
    return create_trial(state=TrialState.PRUNED, intermediate_values=values, params=drawn, distributions=spaces)
