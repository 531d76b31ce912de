"""What is told about a job: the status that the operator writes and that `finetune run --output json` prints.

Metrics and losses are decimal strings, as Kubernetes' API conventions ask, since JSON numbers lose digits on their way.
"""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Contract
from finetune_api.exit_codes import Reason

ConditionType = Literal[
    "Accepted",
    "Suspended",
    "Admitted",
    "Running",
    "ProgressStale",
    "NameConflict",
    "Evaluated",
    "Complete",
    "Failed",
    "Finished",
]
Phase = Literal["Pending", "Running", "Suspended", "Restarting", "Complete", "Failed", "Interrupted"]
MAX_TEXT = 1024
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Time = Annotated[str, Field(max_length=40)]
Decimal = Annotated[str, Field(max_length=32)]
Count = Annotated[int, Field(ge=0)]


class Condition(Contract):
    """One aspect of the job's state, as in metav1.Condition."""

    type: ConditionType
    """Which aspect."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(max_length=1024)]
    """Why, as one CamelCase word."""
    message: Annotated[str, Field(max_length=8192)] = ""
    """Why, for people."""
    last_transition_time: Time
    """When the status last changed, RFC 3339."""
    observed_generation: Count = 0
    """Generation of the spec that this is about."""


class Progress(Contract):
    """How far training is."""

    step: Count
    """Optimiser steps done."""
    max_steps: Count
    """Optimiser steps planned."""
    epoch: Decimal = "0"
    """Passes over the training rows done."""
    percent: Annotated[int, Field(ge=0, le=100)] = 0
    """Part of the steps done."""
    samples_per_second: Decimal | None = None
    """Rows per second over all workers."""
    loss: Decimal | None = None
    """Training loss of the last reported step, per supervised element."""
    eta: Time | None = None
    """When the last step is expected, RFC 3339."""
    display: Text = ""
    """All of it in a few characters, such as `120/300 (40%)`."""
    updated_at: Time | None = None
    """When this was reported, RFC 3339."""


class CheckpointStatus(Contract):
    """The newest state that can be continued from."""

    step: Count
    """Optimiser steps done."""
    saved_at: Time | None = None
    """When it was saved, RFC 3339."""
    verified: bool = False
    """Whether its digests were read back and matched."""


class ArtifactStatus(Contract):
    """What was handed over."""

    uri: Text
    """Where it is."""
    digest: Text
    """sha256 of its manifest.json, which lists the sha256 of every file."""
    formats: Annotated[list[Annotated[str, Field(max_length=16)]], Field(max_length=3)] = Field(
        default_factory=list[str]
    )
    """The forms in it."""


class ResultStatus(Contract):
    """What came out of it."""

    metrics: Annotated[dict[str, Decimal], Field(max_length=64)] = Field(default_factory=dict)
    """Metrics of the held-out rows, `split/name` to a decimal number."""
    artifact: ArtifactStatus | None = None
    """What was handed over."""
    report: Text | None = None
    """Address of a page for people: metrics, curves, and the rows that went wrong. Beside the artifact, or in the work
    folder when the gate failed."""


class FailureStatus(Contract):
    """Why it stopped."""

    reason: Reason
    """One of the closed list."""
    message: Annotated[str, Field(max_length=4096)]
    """What happened, with the place and the value found."""
    remedy: Annotated[str, Field(max_length=4096)] = ""
    """What to do about it."""
    rank: Count | None = None
    """The process that failed first, when known."""
    exit_code: Annotated[int, Field(ge=0, le=255)]
    """The exit code that carried the reason."""
    retryable: bool
    """Whether a new attempt may follow."""


class FineTuneJobStatus(Contract):
    """The truth about one job."""

    observed_generation: Count = 0
    """Generation of the spec that this status is about."""
    phase: Phase = "Pending"
    """One word for people; programs read the conditions."""
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(default_factory=list[Condition])
    """The aspects of the job's state; Finished is true at either end."""
    attempt: Count = 0
    """The attempt that is or was running, counted from 1."""
    restarts: Count = 0
    """Attempts that count against restarts.limit."""
    active_seconds: Count = 0
    """Seconds of running before the present one began, all attempts together; what activeDeadlineSeconds counts."""
    start_time: Time | None = None
    """When it first ran, RFC 3339."""
    restart_time: Time | None = None
    """When the last attempt ended that another one follows, RFC 3339; the next begins after a backoff."""
    completion_time: Time | None = None
    """When it finished, RFC 3339."""
    progress: Progress | None = None
    """How far training is."""
    checkpoint: CheckpointStatus | None = None
    """The newest state that can be continued from."""
    resolved: Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=64)] = Field(
        default_factory=dict
    )
    """What was decided where the spec leaves it open or the hardware decides: name to value and reason."""
    result: ResultStatus | None = None
    """What came out of it."""
    failure: FailureStatus | None = None
    """Why it stopped."""


def decimal(value: float) -> str:
    """Return a number as a decimal string with up to six significant digits and no exponent noise."""
    return f"{value:.6g}"
