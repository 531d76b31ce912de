"""What a person writes to search: a FineTuneSweep, trials of one FineTuneJob that differ in a few fields.

It has the form of a Kubernetes object with a template, as Jobs and Katib's Experiments have, so that the same document
can become a custom resource. What is legal only for some type of parameter has no default here (see `spec`).
"""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from finetune_api.base import Contract, MetricName
from finetune_api.metric_names import LOWER_IS_BETTER
from finetune_api.spec import Metadata
from finetune_api.status import ArtifactStatus, Count, Decimal, Text

ParameterType = Literal["choice", "uniform", "loguniform", "int"]
Direction = Literal["maximize", "minimize"]
TrialState = Literal["Running", "Paused", "Complete", "Failed"]
SweepPhase = Literal["Complete", "Failed", "Interrupted"]
_Bound = Annotated[float, Field(ge=-1000000000, le=1000000000)]


class Parameter(Contract):
    """One field of the job that the trials vary. `type` decides which other fields are legal."""

    path: Annotated[
        str, Field(max_length=253, pattern=r"^(?:method|(?:method|training|model)(?:\.[a-z][A-Za-z0-9]*)+)$")
    ]
    """The field, below the job's spec: `training.learningRate`, `method.rank`, or the whole section `method`."""
    type: ParameterType
    """`choice`: one of values; `uniform`: a number between min and max; `loguniform`: the same, evenly over the orders
    of magnitude, as learning rates want it; `int`: a whole number from min to max."""
    values: Annotated[list[JsonValue], Field(min_length=1, max_length=64)] | None = None
    """What to choose from; null leaves the field out. choice only, and required there."""
    min: _Bound | None = None
    """Lowest value. uniform, loguniform and int, and required there."""
    max: _Bound | None = None
    """Highest value, itself included for int. uniform, loguniform and int, and required there."""


class Algorithm(Contract):
    """How the values of the next trial are chosen."""

    type: Literal["grid", "random", "tpe"] = "tpe"
    """`grid`: every combination of the values, in order; parameters of type choice and int only. `random`: independent
    draws. `tpe`: ten random trials, then where good ones are dense and bad ones are not (Tree-structured Parzen
    Estimator)."""


class Halving(Contract):
    """ASHA: trials pause after a few looks at the validation rows, and only the best of them go on."""

    first: Annotated[int, Field(ge=1, le=1000)] = 1
    """Evaluations after which a trial pauses for the first time; `evaluation.every` of the template says how much
    training that is. The next pauses come after reduction, reduction squared, ... times as many."""
    reduction: Annotated[int, Field(ge=2, le=16)] = 3
    """One in so many trials goes on from each pause."""


class Objective(Contract):
    """By what trials are compared, on the validation rows."""

    metric: MetricName
    """Name of a validation metric of the task; loss always is one."""
    direction: Direction | None = None
    """Whether more or less is better; known from the metric when absent: errors and loss are minimised."""

    def maximizes(self) -> bool:
        """Tell whether more is better."""
        return self.metric not in LOWER_IS_BETTER if self.direction is None else self.direction == "maximize"


class TrialTemplate(Contract):
    """The job that every trial is."""

    spec: Annotated[dict[str, JsonValue], Field(max_length=64)]
    """A FineTuneJob's spec; each trial sets the parameters in it. It is checked with the parameters set, so it may lack
    what they give."""


class FineTuneSweepSpec(Contract):
    """A search over some fields of a fine-tuning job."""

    template: TrialTemplate
    """The job that every trial is."""
    parameters: Annotated[list[Parameter], Field(min_length=1, max_length=8)]
    """The fields that the trials vary."""
    objective: Objective
    """By what trials are compared."""
    algorithm: Algorithm = Field(default_factory=Algorithm)
    """How the values of the next trial are chosen."""
    early_stopping: Halving | None = None
    """Stop trials early when others were better after the same work; every trial runs to its end when absent."""
    trials: Annotated[int, Field(ge=1, le=10000)] = 16
    """How many trials are made, whatever becomes of them; a grid may end before. May be raised after the end: the same
    command goes on."""
    seed: Annotated[int, Field(ge=0, le=4294967295)] = 42
    """Decides what is tried: the same seed tries the same, interrupted or not."""


class FineTuneSweep(Contract):
    """A search for the best trial of a fine-tuning job."""

    api_version: Literal["finetune.dev/v1alpha1"]
    """finetune.dev/v1alpha1"""
    kind: Literal["FineTuneSweep"]
    """FineTuneSweep"""
    metadata: Metadata
    """Name and labels."""
    spec: FineTuneSweepSpec
    """What is wanted."""


class TrialStatus(Contract):
    """One trial."""

    number: Count
    """Counted from 0 in the order of proposals."""
    state: TrialState
    """Paused: stopped early, since others were better after the same work; its checkpoint is kept."""
    parameters: Annotated[dict[str, JsonValue], Field(max_length=8)]
    """What it set, path to value."""
    value: Decimal | None = None
    """The objective: at the end, or at the last evaluation before it paused or failed."""
    evaluations: Count = 0
    """Looks at the validation rows that the value is after."""
    reason: Annotated[str, Field(max_length=64)] = ""
    """Why it failed, one of the job's reasons."""
    message: Text = ""
    """Why it failed, for people."""


class BestTrial(Contract):
    """The trial that the sweep was for."""

    number: Count
    """Which trial."""
    value: Decimal
    """Its objective."""
    metrics: Annotated[dict[str, Decimal], Field(max_length=64)] = Field(default_factory=dict)
    """Metrics of the held-out rows, `split/name` to a decimal number."""
    artifact: ArtifactStatus
    """What it handed over."""
    manifest: dict[str, JsonValue]
    """A FineTuneJob that trains it again; addresses of files are absolute."""


class FineTuneSweepStatus(Contract):
    """The truth about one sweep."""

    phase: SweepPhase
    """One word."""
    message: Text = ""
    """Why it is not Complete, for people."""
    metric: MetricName
    """What trials are compared by."""
    direction: Direction
    """Whether more or less is better."""
    trials: Annotated[list[TrialStatus], Field(max_length=10000)] = Field(default_factory=list[TrialStatus])
    """Every trial, in the order of their numbers."""
    best: BestTrial | None = None
    """The best complete trial."""
