"""The rules between fields, written once: evaluated here in Python, and printed as CEL into the CRD.

A predicate is a small value that can do both, so the command and the API server cannot disagree. Both see the wire form
after the schema's defaults were filled in. A section that is absent makes every comparison with it false.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from finetune_api.method_types import MERGED, METHOD_FIELDS, OWN_WEIGHTS
from finetune_api.names import ENV_PREFIX, GROUP, RESERVED_ENV
from finetune_api.objective_rules import OBJECTIVE_RULES
from finetune_api.predicates import (
    AnyOf,
    Contains,
    ExactlyOne,
    Has,
    In,
    KeysIn,
    NoKeyStartsWith,
    Not,
    StartsWith,
    Wire,
    lookup,
)
from finetune_api.rule import Rule, exclude, only_for, when

ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "text-classification": ("text", "textPair", "label"),
    "text-regression": ("text", "textPair", "label"),
    "causal-lm": ("text", "prompt", "completion", "messages"),
    "masked-lm": ("text",),
    "preference": ("prompt", "chosen", "rejected"),
    "token-classification": ("tokens", "tags"),
    "question-answering": ("context", "question", "answers"),
    "multiple-choice": ("question", "choices", "label"),
    "embedding": ("text", "textPair", "label"),
    "translation": ("source", "target"),
    "summarization": ("text", "summary"),
    "next-sentence-prediction": ("text",),
    "recommendation": ("items",),
    "image-classification": ("image", "label"),
    "object-detection": ("image", "objects"),
    "semantic-segmentation": ("image", "mask"),
    "speech-recognition": ("audio", "transcript"),
    "audio-classification": ("audio", "label"),
    "image-text": ("image", "caption", "classPrompt"),
    "multimodal-classification": ("text", "image", "audio", "label"),
    "image-captioning": ("image", "caption"),
    "visual-question-answering": ("image", "question", "answer"),
}
"""The columns that each task can use; the keys of `data.fields`."""

_HELD_OUT = AnyOf((Has("data.validation"), Has("data.test")))

RULES: Final[tuple[Rule, ...]] = (
    *(
        Rule(
            f"data.{split}",
            when(Has(f"data.{split}"), ExactlyOne((f"data.{split}.uri", f"data.{split}.fraction"))),
            "exactly one of uri and fraction",
            "Give the address of the rows, or the part of the training rows to hold out.",
        )
        for split in ("validation", "test")
    ),
    *(
        Rule(
            "data.fields",
            when(In("task", (task,)), KeysIn("data.fields", roles)),
            f"{task} has the roles {', '.join(roles)}",
            "Map one of these roles to the name of your column.",
        )
        for task, roles in ROLES.items()
    ),
    Rule(
        "model.weights",
        when(In("model.weights", ("random",)), In("method.type", ("full",))),
        "random weights need method.type full",
        "Set method: {type: full}, or weights: pretrained.",
    ),
    *(only_for(f"method.{name}", "method.type", *types) for name, types in METHOD_FIELDS.items()),
    Rule(
        "method.init",
        when(In("method.init", ("pissa", "olora")), Not(In("method.dora", (True,)))),
        "dora has a magnitude that a decomposed start would change",
        "Remove one of init and dora.",
    ),
    exclude("training", "epochs", "maxSteps", "maxSteps"),
    Rule(
        "training.epochs",
        when(In("training.epochs", (0.0,)), _HELD_OUT),
        "without training there are only held-out rows to look at",
        "Add data.test or data.validation, or train.",
    ),
    Rule(
        "training.optimizer",
        AnyOf((In("training.optimizer", ("adamw",)), Has("training.learningRate"))),
        "only adamw has a default learning rate",
        "Set training.learningRate; lion's is about a fifth of adamw's, sgd's a hundred times it.",
    ),
    only_for("training.packing", "task", "causal-lm"),
    only_for("training.augmentation", "task", "image-classification", "object-detection", "semantic-segmentation"),
    *(
        only_for(f"training.augmentation.{name}", "task", "image-classification")
        for name in ("crop", "mixup", "cutmix")
    ),
    Rule(
        "data.maxLength",
        when(Has("data.maxLength"), Not(In("task", ("image-classification",)))),
        "an image has no tokens to cut",
        "Remove it.",
    ),
    Rule(
        "training.maskProbability",
        when(Has("training.maskProbability"), In("task", ("masked-lm", "next-sentence-prediction"))),
        "only for masked-lm and next-sentence-prediction",
        "Remove it.",
    ),
    Rule(
        "model.weights",
        when(In("task", ("recommendation",)), In("model.weights", ("random",))),
        "recommendation learns its items from nothing",
        "Set weights: random.",
    ),
    *OBJECTIVE_RULES,
    Rule(
        "training.earlyStopping",
        when(Has("training.earlyStopping"), Has("data.validation")),
        "early stopping needs validation rows",
        "Add data.validation, such as {fraction: 0.1}.",
    ),
    Rule(
        "evaluation.every",
        when(Has("evaluation.every"), Has("data.validation")),
        "evaluation while training needs validation rows",
        "Add data.validation, such as {fraction: 0.1}.",
    ),
    Rule(
        "evaluation.gate",
        when(Has("evaluation.gate"), AnyOf((Has("evaluation.gate.minimum"), Has("evaluation.gate.betterThanBase")))),
        "a gate needs minimum or betterThanBase",
        "Say what the metric must reach.",
    ),
    Rule(
        "evaluation.gate",
        when(Has("evaluation.gate"), _HELD_OUT),
        "a gate needs held-out rows",
        "Add data.test or data.validation, such as {fraction: 0.1}.",
    ),
    Rule(
        "output.uri",
        when(Has("output.uri"), StartsWith("output.uri", ("pvc://", "s3://", "gs://", "file://"))),
        "an artifact goes to pvc://, s3://, gs:// or file://",
        "Write a folder at one of these.",
    ),
    Rule(
        "output.formats",
        when(Contains("output.formats", ("adapter",)), Not(In("method.type", ("full",)))),
        "method.type full trains every weight, so there is no adapter",
        "Set formats: [full], or method: {type: lora}.",
    ),
    Rule(
        "output.formats",
        when(Contains("output.formats", ("merged",)), In("method.type", MERGED)),
        f"merged is a form of method.type {' or '.join(MERGED)}",
        "Remove it, or set method: {type: lora}.",
    ),
    Rule(
        "output.formats",
        when(Contains("output.formats", ("full",)), In("method.type", OWN_WEIGHTS)),
        f"full is a form of method.type {' or '.join(OWN_WEIGHTS)}",
        "Remove it, or set method: {type: full}.",
    ),
    *(exclude("storage", "claimName", name, name) for name in ("size", "storageClassName")),
    Rule(
        "storage.ephemeral",
        when(In("storage.ephemeral", (True,)), Not(Has("storage.claimName"))),
        "ephemeral and claimName exclude each other",
        "Keep one of them.",
    ),
    Rule(
        "storage.ephemeral",
        when(In("storage.ephemeral", (True,)), In("workers.nodes", (1,))),
        "ephemeral storage is for one node",
        "Remove it, or set workers: {nodes: 1}.",
    ),
    Rule(
        "name",
        AnyOf((Not(StartsWith("name", (ENV_PREFIX,))), Not(Has("name")))),
        f"{ENV_PREFIX}* belongs to the operator",
        "Choose another name.",
        scope="pod.env[]",
    ),
    Rule(
        "name",
        Not(In("name", RESERVED_ENV)),
        "this variable connects the workers or places their caches",
        "Remove it.",
        scope="pod.env[]",
    ),
    Rule(
        "value",
        ExactlyOne(("value", "secret")),
        "exactly one of value and secret",
        "Keep one of them.",
        scope="pod.env[]",
    ),
    Rule(
        "name",
        ExactlyOne(("configMap", "secret", "claim", "emptyDir")),
        "exactly one of configMap, secret, claim and emptyDir",
        "Keep one of them.",
        scope="pod.volumes[]",
    ),
    *(
        Rule(
            f"pod.{name}",
            NoKeyStartsWith(f"pod.{name}", f"{GROUP}/"),
            f"{GROUP}/ belongs to the operator",
            "Choose another prefix.",
        )
        for name in ("labels", "annotations")
    ),
)

_STARTED = "has(oldSelf.status) && has(oldSelf.status.startTime)"
_FROZEN = ("task", "model", "data", "method", "training")
TRANSITIONS: Final[tuple[tuple[str, str], ...]] = (
    *(
        (
            f"!({_STARTED}) || self.spec.{name} == oldSelf.spec.{name}",
            f"spec.{name} cannot change once the job has started; make a new FineTuneJob",
        )
        for name in _FROZEN
    ),
    (
        (
            "!has(oldSelf.spec.activeDeadlineSeconds) || !has(self.spec.activeDeadlineSeconds) || "
            "self.spec.activeDeadlineSeconds >= oldSelf.spec.activeDeadlineSeconds"
        ),
        "spec.activeDeadlineSeconds can only be raised or removed",
    ),
)
"""(CEL over the whole object, message): what an update may not do. Only the API server sees an update."""


def violations(spec: Wire) -> Iterator[tuple[str, Rule, Any]]:
    """Yield (path below the spec, rule, value found there) for every rule that a spec with its defaults breaks."""
    for rule in RULES:
        for prefix, scope in _scopes(spec, rule.scope):
            if not rule.predicate.holds(scope):
                yield f"{prefix}{rule.at}", rule, lookup(scope, rule.at)


def _scopes(spec: Wire, scope: str) -> Iterator[tuple[str, Wire]]:
    if not scope:
        yield "", spec
        return
    path = scope.removesuffix("[]")
    found = lookup(spec, path)
    for index, item in enumerate(found if isinstance(found, list) else []):
        if isinstance(item, Mapping):
            yield f"{path}[{index}].", item
