"""What a job would do, without training: the plan with its reasons, and the data as the model will see it."""

from typing import Any

import numpy as np
import torch

from finetune_api.run_config import RunConfig
from finetune_trainer import runtime
from finetune_trainer.deciding import planned_steps
from finetune_trainer.distributed import Group
from finetune_trainer.errors import printable
from finetune_trainer.methods import prepare
from finetune_trainer.models import load_model, parameter_counts
from finetune_trainer.optim import default_learning_rate
from finetune_trainer.preparation import prepare_data
from finetune_trainer.runtime import Decision
from finetune_trainer.tasks.base import Encoded

_SAMPLES = 5
_REFUSED_SHOWN = 20
_BYTES = 4


def plan(config: RunConfig) -> dict[str, Any]:
    """Return decisions with reasons, parameter counts, a memory estimate in bytes, and steps."""
    spec, data = config.spec, prepare_data(config)
    group = Group(0, 1, torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))
    pretrained = spec.model.weights == "pretrained"
    loaded = load_model(data.files, data.task.head, pretrained=pretrained, dropout=spec.training.dropout)
    prepared = prepare(spec.method, loaded)
    total, trained = parameter_counts(prepared.model)
    table = data.encoded["train"].table
    longest = int(table.lengths.max())
    model_config: Any = loaded.model.config
    share = max(1, -(-spec.training.batch_size // config.processes))
    micro = runtime.choose_micro_batch(model_config, share, longest, group.device)
    decisions = [
        *data.decisions,
        runtime.choose_threads(config.processes),
        runtime.choose_dtype(spec.training.precision, group.device),
        Decision("trained", prepared.decision, prepared.reason),
        micro,
    ]
    if spec.training.learning_rate is None:
        rate = default_learning_rate(spec.method.type, pretrained=pretrained)
        decisions.append(Decision("learningRate", f"{rate:g}", f"the default of method {spec.method.type}"))
    per_epoch = -(-len(table) // spec.training.batch_size)
    memory = {
        "weights": total * _BYTES,
        "gradients": trained * _BYTES,
        "optimizer": 2 * trained * _BYTES,
        "activations": runtime.activation_bytes(model_config, int(micro.value), longest),
    }
    return {
        "decisions": [{"name": each.name, "value": each.value, "reason": each.reason} for each in decisions],
        "parameters": {"total": total, "trainable": trained},
        "memoryBytes": {**memory, "total": sum(memory.values())},
        "steps": {
            "perEpoch": per_epoch,
            "total": planned_steps(spec.training, per_epoch),
        },
    }


def show_data(config: RunConfig) -> dict[str, Any]:
    """Return samples as the model sees them, a histogram of lengths, and refused rows with reasons."""
    data = prepare_data(config)
    train = data.encoded["train"]
    samples = [
        {
            "place": train.examples[row].place,
            "label": printable(data.task.label_text(train.examples[row])),
            "pieces": [
                {"text": printable(piece.text), "supervised": piece.supervised}
                for piece in data.task.pieces(train.table, row, data.processor)
            ],
        }
        for row in range(min(_SAMPLES, len(train.table)))
    ]
    refused = [each for found in data.encoded.values() for each in found.refused]
    return {
        "task": data.task.name,
        "splits": {name: len(found.table) for name, found in data.encoded.items()},
        "pool": data.splits.pool,
        "samples": samples,
        "lengths": _histogram(train),
        "refused": [
            {"file": each.example.row.file, "row": each.example.row.number, "reason": each.reason}
            for each in refused[:_REFUSED_SHOWN]
        ],
        "refusedCount": len(refused),
        "cut": sum(found.cut for found in data.encoded.values()),
    }


def _histogram(encoded: Encoded) -> list[dict[str, int]]:
    """Count rows by length, in powers of two."""
    lengths = encoded.table.lengths
    edges = [2**power for power in range(3, int(np.ceil(np.log2(max(8, int(lengths.max()))))) + 1)]
    low = 0
    rows: list[dict[str, int]] = []
    for edge in edges:
        rows.append({"upto": edge, "rows": int(((lengths > low) & (lengths <= edge)).sum())})
        low = edge
    return rows
