"""How the model is trained, judged, saved and handed over."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from finetune_api.base import Contract, MetricName, Unique
from finetune_api.period import PERIOD_PATTERN
from finetune_api.spec.model_data import UriText

DEFAULT_EPOCHS = 3.0
OutputFormat = Literal["adapter", "merged", "full"]
Tracker = Literal["tensorboard", "wandb", "mlflow"]
PeriodText = Annotated[str, Field(max_length=16, pattern=PERIOD_PATTERN)]


class Method(Contract):
    """Which weights are trained. `type` decides which other fields are legal."""

    type: Literal["full", "lora"] = "lora"
    """`full` trains every weight; `lora` trains a low-rank update beside frozen weights, with a fraction of the
    memory."""
    rank: Annotated[int, Field(ge=1, le=512)] | None = None
    """Rank r of the update B@A; 16 when absent. Adds r*(in+out) parameters per target layer. lora only."""
    alpha: Annotated[float, Field(gt=0, le=4096)] | None = None
    """The update is scaled by alpha/rank; 2*rank when absent. lora only."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Probability of dropping an input of the update; 0.05 when absent. lora only."""
    targets: (
        Annotated[str, Field(max_length=512, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(?:,[A-Za-z0-9_.]+)*$")] | None
    ) = None
    """Which layers get an update: `auto` (attention projections, the default), `all-linear`, or module name endings
    with commas between them, such as `query,value`. lora only."""


class EarlyStopping(Contract):
    """Stop when the validation metric no longer improves; the best state is the one that is kept."""

    metric: MetricName = "loss"
    """Name of a validation metric; loss is better when lower, as are error measures, the others when higher."""
    patience: Annotated[int, Field(ge=1, le=1000)] = 3
    """Evaluations without an improvement before training stops."""


class Training(Contract):
    """The optimisation: AdamW over a fixed global batch."""

    epochs: Annotated[float, Field(gt=0, le=10000)] | None = None
    """Passes over the training rows, fractions allowed; 3 when maxSteps is absent too. Excludes maxSteps."""
    max_steps: Annotated[int, Field(ge=1, le=1000000000)] | None = None
    """Optimiser steps. Excludes epochs."""
    batch_size: Annotated[int, Field(ge=1, le=1048576)] = 32
    """Samples per optimiser step over all workers together: the same whatever their number. How many of them a
    device sees at once is decided from its memory."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    """Highest learning rate. When absent: 2e-4 for lora, 2e-5 for full, 5e-4 for random weights."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up: to zero in a line, to zero in a half cosine, or not at all."""
    warmup: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Part of all steps over which the learning rate rises from zero."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.01
    """Decoupled weight decay; biases and normalisation weights are left out."""
    gradient_clip: Annotated[float, Field(ge=0, le=1000000)] = 1.0
    """Largest norm of the whole gradient; 0 does not clip."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout probability of the model itself; the model's own when absent."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability spread over all classes or tokens; 0 for text-regression."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the matrix products; `auto` measures both on the device and reports why."""
    packing: bool | None = None
    """Put several short rows into one sequence without letting them see each other; on when absent. causal-lm
    only."""
    mask_probability: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Part of the tokens to hide and predict; 0.15 when absent. masked-lm and next-sentence-prediction only."""
    seed: Annotated[int, Field(ge=0, le=4294967295)] = 42
    """Decides order, splits, dropout and new weights."""
    early_stopping: EarlyStopping | None = None
    """Stop before the end when the validation metric no longer improves; needs data.validation."""

    @model_validator(mode="before")
    @classmethod
    def _three_epochs_unless_a_length_is_given(cls, value: Any) -> Any:
        if isinstance(value, dict) and not any(
            value.get(key) is not None for key in ("epochs", "maxSteps", "max_steps")
        ):
            return {**value, "epochs": DEFAULT_EPOCHS}
        return value


class Gate(Contract):
    """A bar that the trained model must clear on the test rows, or on the validation rows without a test set."""

    metric: MetricName
    """Name of the metric to judge by."""
    minimum: Annotated[float, Field(ge=-1000000000, le=1000000000)] | None = None
    """The metric must reach this value (for a loss or an error: not exceed it)."""
    better_than_base: Annotated[float, Field(ge=0, le=1000000000)] | None = None
    """The metric must be better than the untrained model's by at least this much."""


class Evaluation(Contract):
    """When and by what the model is judged."""

    every: PeriodText | None = None
    """How often the validation rows are looked at: `200steps`, `0.25epoch` or a time such as `10m`; once per epoch
    when absent."""
    metrics: Annotated[list[MetricName], Unique, Field(max_length=16)] = Field(default_factory=list[MetricName])
    """Names of metrics to report; the task's own when empty."""
    gate: Gate | None = None
    """Refuse the model when it is not good enough: the job is Failed with GateFailed and hands nothing over."""


class Checkpoint(Contract):
    """How much work a stop can cost."""

    every: PeriodText = "5m"
    """How often the state is saved: a time, `200steps` or `0.25epoch`."""
    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """How many of the newest checkpoints are kept; each holds the trainable weights and twice their size of
    optimiser state."""


class Output(Contract):
    """Where the artifact goes and in which forms."""

    uri: UriText | None = None
    """A folder at pvc://, s3://, gs:// or file://; the work folder's `artifact` when absent. Required on a cluster."""
    formats: Annotated[list[OutputFormat], Unique, Field(min_length=1, max_length=3)] | None = None
    """`adapter` is the update alone, `merged` the model with the update added (both lora), `full` the whole model
    (method full). adapter, or full, when absent."""
