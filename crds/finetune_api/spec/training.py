"""How the model is trained, judged, saved and handed over."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from finetune_api.base import Contract, MetricName, Unique
from finetune_api.period import PERIOD_PATTERN, STEP_PERIOD_PATTERN
from finetune_api.spec.model_data import UriText
from finetune_api.spec.objective import Adversarial, Consolidation, Distillation, Replay

DEFAULT_EPOCHS = 3.0
DEFAULT_VIRTUAL_TOKENS = 20
OutputFormat = Literal["adapter", "merged", "full"]
Tracker = Literal["tensorboard", "wandb", "mlflow"]
PeriodText = Annotated[str, Field(max_length=16, pattern=PERIOD_PATTERN)]
ClassName = Annotated[str, Field(min_length=1, max_length=253)]
ClassWeight = Annotated[float, Field(gt=0, le=1000000)]
ModulePart = Annotated[str, Field(max_length=253, pattern=r"^[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*$")]


class Method(Contract):
    """Which weights are trained. `type` decides which other fields are legal."""

    type: Literal[
        "full",
        "lora",
        "adalora",
        "ia3",
        "bottleneck",
        "prompt-tuning",
        "prefix-tuning",
        "p-tuning",
        "bitfit",
        "layer-norm",
        "head",
        "top-layers",
        "encoder",
        "decoder",
    ] = "lora"
    """Weights of the model itself: `full` trains all, `bitfit` the biases, `layer-norm` the normalisation weights,
    `head` what stands on the backbone, `top-layers` the last blocks and the head, `encoder` or
    `decoder` one side of a model that has both. Updates beside frozen weights:
    `lora` low-rank ones, `adalora` low-rank ones whose ranks follow their importance, `ia3` factors of keys, values and
    inner units, `bottleneck` small networks in every block. Trained input: `prompt-tuning` vectors, `p-tuning` vectors
    made by a network, `prefix-tuning` keys and values of every layer. New weights, such as a fresh head, are always
    trained."""
    rank: Annotated[int, Field(ge=1, le=512)] | None = None
    """Rank r of the update B@A; when absent 16, for adalora, where it is the rank at the start, 12. Adds r*(in+out)
    parameters per target layer, for adalora r*(in+out+1). lora and adalora."""
    target_rank: Annotated[int, Field(ge=1, le=512)] | None = None
    """Average rank at the end, at most rank; half of rank when absent. adalora only."""
    alpha: Annotated[float, Field(gt=0, le=4096)] | None = None
    """The update is scaled by alpha/rank; 2*rank when absent. lora and adalora."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Probability of dropping an input of the update; 0.05 when absent. lora and adalora."""
    targets: (
        Annotated[str, Field(max_length=512, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(?:,[A-Za-z0-9_.]+)*$")] | None
    ) = None
    """Which layers get an update: `auto` (attention projections, the default), `all-linear`, or parts of module names
    with commas between them, such as `query,value` or `layer.5`. lora and adalora."""
    ranks: Annotated[dict[ModulePart, Annotated[int, Field(ge=1, le=512)]], Field(max_length=64)] | None = None
    """Ranks of some target layers, by a part of their names: `{value: 32, layer.0: 4}`; the longest part wins. lora
    only."""
    alphas: Annotated[dict[ModulePart, Annotated[float, Field(gt=0, le=4096)]], Field(max_length=64)] | None = None
    """Alphas of some target layers, by a part of their names. lora only."""
    rslora: bool | None = None
    """Scale the update by alpha/sqrt(rank), which keeps high ranks learning. lora only."""
    dora: bool | None = None
    """Train the magnitude of every output apart from its direction; adds one parameter per output of a target layer
    and about doubles the time of an update. lora only."""
    init: Literal["default", "pissa", "olora"] | None = None
    """Where the update starts: at zero, or at the principal (`pissa`) or orthonormal (`olora`) part of the weight,
    which is taken off the weight. The artifact is a plain update of twice the rank. lora only."""
    rate_ratio: Annotated[float, Field(ge=1, le=1024)] | None = None
    """Learning rate of B over that of A (LoRA+, whose authors advise 16); 1 when absent. lora only."""
    size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Inner width of an adapter; a sixteenth of the hidden size, at least 8, when absent. Adds 2*size*hidden + size +
    hidden parameters each. bottleneck only."""
    placement: Literal["houlsby", "pfeiffer"] | None = None
    """Adapters behind attention and the feed-forward part (`houlsby`, the default), or behind the latter alone.
    bottleneck only."""
    virtual_tokens: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Trained vectors in the input, or keys and values in every layer; 20 when absent. prompt-tuning, p-tuning and
    prefix-tuning."""
    layers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """How many of the last blocks are trained; 1 when absent. top-layers only."""
    layer_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Each block learns at this many times the rate of the block above it; all at one rate when absent. full and
    top-layers."""
    unfreeze_every: Annotated[str, Field(max_length=16, pattern=STEP_PERIOD_PATTERN)] | None = None
    """Train the head first, then one block more after every such period (`50steps`, `0.5epoch`), from the last to the
    first; all from the start when absent. full and top-layers."""

    @property
    def input_tokens(self) -> int:
        """Positions of the model's input that the method takes for itself."""
        return (self.virtual_tokens or DEFAULT_VIRTUAL_TOKENS) if self.type in {"prompt-tuning", "p-tuning"} else 0


class EarlyStopping(Contract):
    """Stop when the validation metric no longer improves; the best state is the one that is kept."""

    metric: MetricName = "loss"
    """Name of a validation metric; loss is better when lower, as are error measures, the others when higher."""
    patience: Annotated[int, Field(ge=1, le=1000)] = 3
    """Evaluations without an improvement before training stops."""


class Augmentation(Contract):
    """How training images are changed, anew in every epoch; drawn from training.seed, epoch and row."""

    crop: Annotated[float, Field(gt=0, le=1)] | None = None
    """Show a random part of each image, of its area at least this much, in the model's size; authors use 0.08 to 0.6.
    The whole image when absent."""
    flip: bool | None = None
    """Mirror every second image left to right; not for digits or letters."""
    mixup: Annotated[float, Field(gt=0, le=16)] | None = None
    """Add another image of the set, and its label, by a share drawn from Beta(mixup, mixup); 0.2 is usual."""
    cutmix: Annotated[float, Field(gt=0, le=16)] | None = None
    """Put a rectangle of another image into each, and its label by the area, drawn as for mixup; 1 is usual. With both,
    one of them by chance. Each of the two decodes two images per row."""


class Training(Contract):
    """The optimisation over a fixed global batch."""

    epochs: Annotated[float, Field(ge=0, le=10000)] | None = None
    """Passes over the training rows, fractions allowed; 3 when maxSteps is absent too. 0 judges the model as it is, on
    held-out rows. Excludes maxSteps."""
    max_steps: Annotated[int, Field(ge=1, le=1000000000)] | None = None
    """Optimiser steps. Excludes epochs."""
    batch_size: Annotated[int, Field(ge=1, le=1048576)] = 32
    """Samples per optimiser step over all workers together: the same whatever their number. How many of them a
    device sees at once is decided from its memory."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    """Highest learning rate. When absent it depends on the method: 2e-4 for lora, 2e-5 for full; 5e-4 for random
    weights. `finetune plan` shows it."""
    schedule: Literal["linear", "cosine", "polynomial", "inverse-sqrt", "wsd", "constant"] = "linear"
    """How the learning rate falls after the warm-up: to zero in a line, in a half cosine or in a parabola, with the
    inverse square root of the steps, to zero over the last fifth (`wsd`), or not at all."""
    optimizer: Literal["adamw", "sgd", "lion", "adafactor"] = "adamw"
    """The rule that moves the weights. sgd (momentum 0.9) and lion keep one number per weight beside it, adamw two,
    adafactor a row and a column per matrix. All but adamw need learningRate."""
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
    loss: Literal["cross-entropy", "focal", "squared-error", "absolute-error", "huber"] | None = None
    """What is minimised. text-classification: `cross-entropy` (the default), or `focal`, which counts rows that are
    right already less. text-regression: `squared-error` (the default), `absolute-error`, or `huber`, half the square
    of small errors and a line for large ones."""
    focal_gamma: Annotated[float, Field(ge=0, le=10)] | None = None
    """How much less: a factor of (1 - probability of the right class) to this power; 2 when absent. loss focal only."""
    huber_delta: Annotated[float, Field(gt=0, le=1000000000)] | None = None
    """Error at which the loss turns into a line, in units of the label; 1 when absent. loss huber only."""
    class_weights: Annotated[dict[ClassName, ClassWeight], Field(max_length=256)] | None = None
    """How often a row of each class counts, such as `{spam: 5}`; 1 for classes that are left out. The loss is divided
    by the sum of the weights. Metrics, validation loss included, count every row once. text-classification only."""
    balance_classes: bool | None = None
    """Let all classes count alike together: each row counts rows / (classes * rows of its class).
    text-classification only."""
    anchor: Annotated[float, Field(gt=0, le=1000000)] | None = None
    """L2-SP: keep pretrained weights near where they started; half of this times the squared distance is added to
    what is minimised, though not to the reported loss. Its authors use 0.01 to 1. Adds one copy of the trained weights.
    Methods that train weights of the model itself."""
    ewc: Consolidation | None = None
    """Elastic weight consolidation: keep what earlier rows need. Adds two copies of the trained weights. Methods that
    train weights of the model itself, and the tasks of adversarial."""
    replay: Replay | None = None
    """Add rows of an earlier dataset to the training rows."""
    distillation: Distillation | None = None
    """Learn from another model's scores beside the labels. Tasks whose loss is over scores of classes, labels, tokens,
    or over one number."""
    r_drop: Annotated[float, Field(gt=0, le=1000)] | None = None
    """R-Drop (Liang et al. 2021): run every pass twice, with other dropout, and add this times the symmetric divergence
    of both scores (for a number their squared difference) to the mean of both losses; its authors use 0.5 to 5. A step
    takes twice the time. The same tasks as distillation; the model must have dropout."""
    adversarial: Adversarial | None = None
    """Attack a part of the training rows. Excludes rDrop, and packing: rows that share a sequence have no length of
    their own."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the matrix products; `auto` measures both on the device and reports why."""
    packing: bool | None = None
    """Put several short rows into one sequence without letting them see each other; on when absent. causal-lm
    only."""
    mask_probability: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Part of the tokens to hide and predict; 0.15 when absent. masked-lm and next-sentence-prediction only."""
    seed: Annotated[int, Field(ge=0, le=4294967295)] = 42
    """Decides order, splits, dropout and new weights."""
    average: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Judge and hand over a moving average of the weights; this is the part that a step keeps, such as 0.999. Adds one
    copy of the trained weights."""
    embedding_noise: Annotated[float, Field(gt=0, le=100)] | None = None
    """NEFTune: uniform noise on the embedded input while training, at most this over the root of tokens times width;
    its authors use 5 to 15."""
    augmentation: Augmentation | None = None
    """Change training images at random: for image-classification; of the changes,
    object-detection and semantic-segmentation have flip alone."""
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
    """`adapter` is what was trained alone (every method but full), `merged` the model with the update added (lora,
    adalora, ia3), `full` the whole model (methods that train its own weights). When absent: full where it is possible,
    else adapter."""
