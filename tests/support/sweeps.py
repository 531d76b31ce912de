"""A sweep over a small job, changed at will."""

from typing import Any

JOB: dict[str, Any] = {
    "task": "text-classification",
    "model": {"uri": "package://model"},
    "data": {"train": {"uri": "file://rows.csv"}, "validation": {"fraction": 0.1}},
    "method": {"type": "lora"},
    "training": {"maxSteps": 20},
}
PARAMETERS: list[dict[str, Any]] = [
    {"path": "training.learningRate", "type": "loguniform", "min": 0.0001, "max": 0.1},
    {"path": "method.rank", "type": "choice", "values": [4, 8, 16]},
]


def sweep_manifest(job: dict[str, Any] | None = None, /, **changes: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "template": {"spec": JOB if job is None else job},
        "parameters": PARAMETERS,
        "objective": {"metric": "loss"},
    }
    head = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneSweep", "metadata": {"name": "search"}}
    return {**head, "spec": {**spec, **changes}}
