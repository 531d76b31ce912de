"""Manifests that are accepted, and for every rule between fields one that is refused."""

import copy
from typing import Any

GOOD: dict[str, Any] = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "good"},
    "spec": {
        "task": "text-classification",
        "model": {"uri": "package://some_model"},
        "data": {"train": {"uri": "file://train.jsonl"}},
    },
}


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the smallest good manifest with fields below its spec changed."""
    document: dict[str, Any] = copy.deepcopy(GOOD)
    for path, value in changes.items():
        target = document["spec"]
        *parents, last = path.split(".")
        for part in parents:
            target = target.setdefault(part, {})
        target[last] = value
    return document


EWC = {"data": {"uri": "file://earlier.jsonl"}, "strength": 100.0}

# One example per rule that it refuses; the manifest above is the one that every rule accepts. What follows a space in a
# key tells examples with the same path apart.
REFUSED: dict[str, dict[str, Any]] = {
    "data.validation": {"data.validation": {"uri": "file://v.jsonl", "fraction": 0.1}},
    "data.test": {"data.test": {}},
    "data.fields": {"data.fields": {"prompt": "p"}},
    "data.fields text-regression": {"task": "text-regression", "data.fields": {"prompt": "p"}},
    "data.fields causal-lm": {"task": "causal-lm", "data.fields": {"label": "p"}},
    "data.fields masked-lm": {"task": "masked-lm", "data.fields": {"label": "p"}},
    **{
        f"data.fields {task}": {"task": task, "data.fields": {"other": "p"}}
        for task in (
            "preference",
            "token-classification",
            "question-answering",
            "multiple-choice",
            "embedding",
            "translation",
            "summarization",
            "next-sentence-prediction",
            "image-classification",
            "object-detection",
            "semantic-segmentation",
            "speech-recognition",
            "audio-classification",
            "image-text",
            "multimodal-classification",
            "image-captioning",
            "visual-question-answering",
        )
    },
    "data.fields recommendation": {
        "task": "recommendation",
        "data.fields": {"other": "p"},
        "model.weights": "random",
        "method": {"type": "full"},
    },
    "model.weights": {"model.weights": "random"},
    "model.weights recommendation": {"task": "recommendation", "method": {"type": "full"}},
    "method.rank": {"method": {"type": "full", "rank": 8}},
    "method.alpha": {"method": {"type": "full", "alpha": 8}},
    "method.dropout": {"method": {"type": "full", "dropout": 0.1}},
    "method.targets": {"method": {"type": "full", "targets": "auto"}},
    "method.targetRank": {"method": {"type": "lora", "targetRank": 4}},
    "method.ranks": {"method": {"type": "adalora", "ranks": {"query": 4}}},
    "method.alphas": {"method": {"type": "adalora", "alphas": {"query": 4}}},
    "method.rslora": {"method": {"type": "ia3", "rslora": True}},
    "method.dora": {"method": {"type": "ia3", "dora": True}},
    "method.init": {"method": {"type": "ia3", "init": "pissa"}},
    "method.init dora": {"method": {"type": "lora", "init": "pissa", "dora": True}},
    "method.rateRatio": {"method": {"type": "full", "rateRatio": 16}},
    "method.size": {"method": {"type": "lora", "size": 16}},
    "method.placement": {"method": {"type": "lora", "placement": "pfeiffer"}},
    "method.virtualTokens": {"method": {"type": "lora", "virtualTokens": 8}},
    "method.layers": {"method": {"type": "full", "layers": 2}},
    "method.layerDecay": {"method": {"type": "lora", "layerDecay": 0.9}},
    "method.unfreezeEvery": {"method": {"type": "lora", "unfreezeEvery": "50steps"}},
    "training.optimizer": {"training.optimizer": "lion"},
    "training.maxSteps": {"training.epochs": 1, "training.maxSteps": 5},
    "training.epochs": {"training.epochs": 0},
    "training.packing": {"training.packing": True},
    "training.augmentation": {"training.augmentation": {"flip": True}},
    **{
        f"training.augmentation.{name}": {"task": "object-detection", "training.augmentation": {name: 0.5}}
        for name in ("crop", "mixup", "cutmix")
    },
    "data.maxLength": {"task": "image-classification", "data.maxLength": 64},
    "training.maskProbability": {"training.maskProbability": 0.2},
    "training.labelSmoothing": {"task": "text-regression", "training.labelSmoothing": 0.1},
    "training.loss classes": {"task": "text-regression", "training.loss": "focal"},
    "training.loss errors": {"training.loss": "huber"},
    "training.loss smoothing": {"training.loss": "focal", "training.labelSmoothing": 0.1},
    "training.focalGamma": {"training.focalGamma": 1.0},
    "training.huberDelta": {"task": "text-regression", "training.huberDelta": 1.0},
    "training.classWeights": {"task": "text-regression", "training.classWeights": {"spam": 5.0}},
    "training.classWeights balanced": {"training.classWeights": {"spam": 5.0}, "training.balanceClasses": True},
    "training.balanceClasses": {"task": "text-regression", "training.balanceClasses": True},
    "training.anchor": {"training.anchor": 0.1},
    "training.ewc": {"training.ewc": EWC},
    "training.ewc task": {"task": "embedding", "method": {"type": "full"}, "training.ewc": EWC},
    "training.ewc random": {"model.weights": "random", "method": {"type": "full"}, "training.ewc": EWC},
    "training.distillation": {"task": "embedding", "training.distillation": {"teacher": "file://teacher"}},
    "training.distillation.temperature": {
        "task": "text-regression",
        "training.distillation": {"teacher": "file://teacher", "temperature": 2.0},
    },
    "training.rDrop": {"task": "translation", "training.rDrop": 1.0},
    "training.adversarial": {"task": "embedding", "training.adversarial": {"type": "fgm"}},
    "training.adversarial.type": {"task": "translation", "training.adversarial": {"type": "smart"}},
    "training.adversarial.steps": {"training.adversarial": {"type": "fgm", "steps": 2}},
    "training.adversarial.weight": {"training.adversarial": {"type": "pgd", "weight": 2.0}},
    "training.adversarial rDrop": {"training.adversarial": {"type": "fgm"}, "training.rDrop": 1.0},
    "training.packing adversarial": {
        "task": "causal-lm",
        "training.packing": True,
        "training.adversarial": {"type": "fgm"},
    },
    "training.earlyStopping": {"training.earlyStopping": {"metric": "loss"}},
    "evaluation.every": {"evaluation.every": "10steps"},
    "evaluation.gate": {"evaluation.gate": {"metric": "accuracy", "minimum": 0.8}},
    "evaluation.gate bare": {"evaluation.gate": {"metric": "accuracy"}, "data.test": {"fraction": 0.1}},
    "output.uri": {"output.uri": "hf://org/name"},
    "output.formats": {"output.formats": ["full"]},
    "output.formats merged": {"output.formats": ["merged"], "method.type": "full"},
    "output.formats adapter": {"output.formats": ["adapter"], "method.type": "full"},
    "storage.size": {"storage": {"size": "1Gi", "claimName": "c"}},
    "storage.storageClassName": {"storage": {"storageClassName": "fast", "claimName": "c"}},
    "storage.ephemeral": {"storage": {"ephemeral": True}, "workers": {"nodes": 2}},
    "storage.ephemeral claim": {"storage": {"ephemeral": True, "claimName": "c"}},
    "pod.env[0].name": {"pod.env": [{"name": "FINETUNE_X", "value": "1"}]},
    "pod.env[0].name wiring": {"pod.env": [{"name": "MASTER_ADDR", "value": "1"}]},
    "pod.env[0].value": {"pod.env": [{"name": "X"}]},
    "pod.env[0].value both": {"pod.env": [{"name": "X", "value": "1", "secret": {"name": "s", "key": "k"}}]},
    "pod.volumes[0].name": {"pod.volumes": [{"name": "v"}]},
    "pod.labels": {"pod.labels": {"finetune.dev/job": "x"}},
    "pod.annotations": {"pod.annotations": {"finetune.dev/run-config": "x"}},
}

# Lists of objects whose fields have defaults, and lists that are left empty.
LISTS: dict[str, Any] = {
    "scheduling.tolerations": [{"key": "gpu"}, {"operator": "Exists"}],
    "pod.env": [],
    "pod.volumes": [{"name": "v", "emptyDir": {}}, {"name": "c", "claim": "corpus"}],
    "pod.volumeMounts": [{"name": "v", "mountPath": "/v"}],
    "data.validation": {"uri": "file://v.jsonl"},
    "evaluation.gate": {"metric": "accuracy", "minimum": 0.8},
}

# The legal use of the same fields.
ACCEPTED: dict[str, dict[str, Any]] = {
    "data.validation": {"data.validation": {"fraction": 0.1}},
    "data.test": {"data.test": {"uri": "file://t.jsonl"}},
    "data.fields": {"data.fields": {"text": "review", "label": "stars"}},
    "model.weights": {"model.weights": "random", "method.type": "full"},
    "method.rank": {"method.rank": 8},
    "method.alpha": {"method.alpha": 8.5},
    "method.dropout": {"method.dropout": 0.1},
    "method.targets": {"method.targets": "query,value"},
    "method.targetRank": {"method": {"type": "adalora", "rank": 8, "targetRank": 4}},
    "method.ranks": {"method": {"ranks": {"layer.0": 4}, "alphas": {"query": 8.5}, "dora": True, "rslora": True}},
    "method.init": {"method": {"init": "pissa", "rateRatio": 16}},
    "method.size": {"method": {"type": "bottleneck", "size": 16, "placement": "pfeiffer"}},
    "method.virtualTokens": {"method": {"type": "prefix-tuning", "virtualTokens": 8}},
    "method.layers": {"method": {"type": "top-layers", "layers": 2, "layerDecay": 0.9, "unfreezeEvery": "0.5epoch"}},
    "training.optimizer": {"training": {"optimizer": "lion", "learningRate": 0.0001}},
    "training.maxSteps": {"training.maxSteps": 5},
    "training.packing": {"task": "causal-lm", "training.packing": True},
    "training.augmentation": {"task": "image-classification", "training.augmentation": {"flip": True}},
    "data.maxLength": {"data.maxLength": 64},
    "training.maskProbability": {"task": "masked-lm", "training.maskProbability": 0.2},
    "training.labelSmoothing": {"training.labelSmoothing": 0.1},
    "training.loss classes": {"training": {"loss": "focal", "focalGamma": 1.5, "classWeights": {"spam": 5.0}}},
    "training.loss errors": {"task": "text-regression", "training": {"loss": "huber", "huberDelta": 2.0}},
    "training.balanceClasses": {"training.balanceClasses": True},
    "training.anchor": {"method": {"type": "full"}, "training.anchor": 0.1},
    "training.ewc": {"method": {"type": "full"}, "training.ewc": EWC},
    "training.replay": {"training.replay": {"data": {"uri": "pvc://corpus/earlier.jsonl"}, "rows": 50}},
    "training.distillation": {"training": {"distillation": {"teacher": "pvc://models/large", "temperature": 4.0}}},
    "training.rDrop": {"training.rDrop": 1.0},
    "training.adversarial": {"training.adversarial": {"type": "smart", "steps": 2, "weight": 2.0, "share": 1.0}},
    "training.earlyStopping": {"training.earlyStopping": {"metric": "loss"}, "data.validation": {"fraction": 0.1}},
    "evaluation.every": {"evaluation.every": "10steps", "data.validation": {"fraction": 0.1}},
    "evaluation.gate": {
        "evaluation.gate": {"metric": "accuracy", "betterThanBase": 0.1},
        "data.test": {"fraction": 0.1},
    },
    "output.uri": {"output.uri": "pvc://models/good"},
    "output.formats": {"output.formats": ["full"], "method.type": "full"},
    "storage.size": {"storage": {"size": "1Gi", "storageClassName": "fast"}},
    "storage.ephemeral": {"storage": {"ephemeral": True}},
    "pod.env": {"pod.env": [{"name": "X", "value": "$(HOME)"}]},
    "pod.volumes": {"pod.volumes": [{"name": "v", "emptyDir": {}}]},
    "pod.labels": {"pod.labels": {"team": "a"}},
}
