"""The rules of what is minimised; see `rules`."""

from typing import Final

from finetune_api.method_types import OWN_WEIGHTS
from finetune_api.predicates import Has, In, Not
from finetune_api.rule import Rule, exclude, only_for, when

SCORING: Final = (
    "text-classification",
    "text-regression",
    "token-classification",
    "causal-lm",
    "masked-lm",
    "image-classification",
    "audio-classification",
)
"""The tasks whose loss is a function of scores, which can be compared with other scores."""
ATTACKED: Final = (*SCORING, "question-answering", "translation", "summarization", "speech-recognition")
"""The tasks whose rows have a loss of their own, so that each can be attacked, or asked what it needs, by itself."""
_ADVERSARIAL: Final = "training.adversarial"

OBJECTIVE_RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "training.labelSmoothing",
        when(In("task", ("text-regression",)), In("training.labelSmoothing", (0.0,))),
        "text-regression has no classes to smooth over",
        "Remove it.",
    ),
    Rule(
        "training.loss",
        when(In("training.loss", ("cross-entropy", "focal")), In("task", ("text-classification",))),
        "cross-entropy and focal are chosen for text-classification",
        "Remove it: every other task has one loss, or for text-regression a kind of error.",
    ),
    Rule(
        "training.loss",
        when(In("training.loss", ("squared-error", "absolute-error", "huber")), In("task", ("text-regression",))),
        "errors are for text-regression",
        "Remove it.",
    ),
    only_for("training.focalGamma", "training.loss", "focal"),
    only_for("training.huberDelta", "training.loss", "huber"),
    Rule(
        "training.loss",
        when(In("training.loss", ("focal",)), In("training.labelSmoothing", (0.0,))),
        "focal and labelSmoothing pull in opposite directions",
        "Keep one of them.",
    ),
    only_for("training.classWeights", "task", "text-classification"),
    only_for("training.balanceClasses", "task", "text-classification"),
    exclude("training", "classWeights", "balanceClasses", "classWeights"),
    only_for("training.anchor", "method.type", *OWN_WEIGHTS),
    only_for("training.ewc", "method.type", *OWN_WEIGHTS),
    Rule(
        "training.ewc",
        when(Has("training.ewc"), In("task", ATTACKED)),
        "only for tasks whose rows have a loss of their own",
        "Remove it.",
    ),
    Rule(
        "training.ewc",
        when(Has("training.ewc"), In("model.weights", ("pretrained",))),
        "random weights have learned nothing before",
        "Remove it, or set model.weights: pretrained.",
    ),
    only_for("training.distillation", "task", *SCORING),
    Rule(
        "training.distillation.temperature",
        when(Has("training.distillation.temperature"), Not(In("task", ("text-regression",)))),
        "a number has no temperature",
        "Remove it.",
    ),
    only_for("training.rDrop", "task", *SCORING),
    only_for(_ADVERSARIAL, "task", *ATTACKED),
    Rule(
        f"{_ADVERSARIAL}.type",
        when(In(f"{_ADVERSARIAL}.type", ("smart",)), In("task", SCORING)),
        f"smart is for {', '.join(SCORING)}",
        "Choose fgm, pgd or freelb.",
    ),
    only_for(f"{_ADVERSARIAL}.steps", f"{_ADVERSARIAL}.type", "pgd", "freelb", "smart"),
    only_for(f"{_ADVERSARIAL}.weight", f"{_ADVERSARIAL}.type", "smart"),
    exclude("training", "adversarial", "rDrop", "adversarial"),
    Rule(
        "training.packing",
        when(Has(_ADVERSARIAL), Not(In("training.packing", (True,)))),
        "rows that share a sequence cannot be attacked each by itself",
        "Remove packing, which is off then, or adversarial.",
    ),
)
