"""Every method of the registry and its variants, each with a tiny model: a new method is covered without a change."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from finetune_api.method_types import MERGED, OWN_WEIGHTS
from finetune_trainer.methods import METHODS, prepare
from finetune_trainer.models import load_model
from finetune_trainer.preparation import prepare_data
from support.tiny import manifest, run_config, write_rows

VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"type": "lora", "rslora": True},
    "dora": {"type": "lora", "dora": True},
    "pissa": {"type": "lora", "init": "pissa"},
    "olora-rslora": {"type": "lora", "init": "olora", "rslora": True, "rank": 4},
    "lora-plus": {"type": "lora", "rateRatio": 16.0},
    "lora-by-layer": {"type": "lora", "targets": "all-linear", "ranks": {"0": 2, "1": 4}, "alphas": {"1": 3.0}},
    "pfeiffer": {"type": "bottleneck", "placement": "pfeiffer"},
    "decayed": {"type": "full", "layerDecay": 0.5},
    "unfreezing": {"type": "full", "unfreezeEvery": "2steps"},
}
CASES = {name: {"type": name} for name in METHODS} | VARIANTS
TASKS = ("text-classification", "causal-lm")
TASKS_OF = {"bitfit": ("text-classification",), "encoder": ("translation",), "decoder": ("translation",)}
"""The tasks of a method whose weights are not in both models: a Llama has no biases, neither has two sides."""


def cases() -> Iterator[tuple[str, str]]:
    return ((name, task) for name in CASES for task in TASKS_OF.get(name, TASKS))


def document(name: str, task: str, folder: Path, model: Path, **sections: Any) -> dict[str, Any]:
    return manifest(task, model, write_rows(folder, task), method=CASES[name], **sections)


def prepared_model(folder: Path, description: dict[str, Any]) -> tuple[Any, Any, Any]:
    config = run_config(folder, description)
    data = prepare_data(config)
    torch.manual_seed(0)
    return config, data, prepare(config.spec.method, load_model(data.files, data.task.head, pretrained=True))


def formats(name: str) -> list[str]:
    kind = CASES[name]["type"]
    found = [] if kind == "full" else ["adapter"]
    return found + (["merged"] if kind in MERGED else []) + (["full"] if kind in OWN_WEIGHTS else [])
