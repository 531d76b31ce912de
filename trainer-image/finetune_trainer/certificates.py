"""Proofs on the job's own model and data, before training: what later numbers rest on is checked, not assumed."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from finetune_trainer.coupling import introduce
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.table import TokenTable
from finetune_trainer.distributed import Group
from finetune_trainer.errors import ConfigError
from finetune_trainer.runtime import Decision
from finetune_trainer.tasks.scoring import Learned

GRADIENT_TOLERANCE = 1e-3
"""Largest difference of a gradient, relative to the whole gradient's norm; float32 rounding is about 1e-6."""


def accumulation_is_exact(
    task: Learned, model: nn.Module, parameters: Mapping[str, nn.Parameter], table: TokenTable, device: torch.device
) -> tuple[Decision, set[str]]:
    """Compare the gradient of two rows together with the sum of their own.

    Args:
        task: What computes the loss.
        model: Switched to evaluation, so that dropout does not differ.
        parameters: The trained ones.
        table: At least one row.
        device: Where the model is.

    Returns:
        The finding, and the parameters that get no gradient at all.

    Raises:
        ConfigError: They differ: the loss of a row depends on its neighbours.
    """
    rows: Rows = np.unique(np.array([0, len(table) - 1], dtype=np.int64))
    was_training = model.training
    model.eval()

    def gradients(passes: list[Rows]) -> dict[str, Tensor]:
        batches = [task.collate(table, each, 0).to(device) for each in passes]
        for batch in introduce(task, model, batches, Group(0, 1, device), lambda _: nullcontext()):
            task.loss_sum(model, batch).sum().backward()
        found = {name: each.grad.clone() for name, each in parameters.items() if each.grad is not None}
        for parameter in parameters.values():
            parameter.grad = None
        return found

    together = gradients([rows])
    apart = gradients([row.reshape(1) for row in rows])
    model.train(was_training)
    norm = max(float(torch.stack([each.norm() for each in together.values()]).norm()), 1e-12)
    difference = max(float((together[name] - apart[name]).norm()) for name in together) / norm
    if difference > GRADIENT_TOLERANCE:
        raise ConfigError(
            f"the gradient of two rows differs from the sum of their own by {difference:.1e} of its norm",
            remedy="This architecture mixes rows of a batch; set training.batchSize to 1, or choose another model.",
        )
    unused = set(parameters) - set(together)
    return Decision("accumulation", "exact", f"two rows together and apart differ by {difference:.0e}"), unused


def saving_is_lossless(parameters: Mapping[str, nn.Parameter]) -> Decision:
    """Write the trained weights to safetensors and read them back, in memory.

    Args:
        parameters: The trained ones.

    Returns:
        The finding.

    Raises:
        ConfigError: A tensor changed, such as a view that safetensors cannot keep.
    """
    sample: dict[str, Any] = {name: each.detach().cpu().contiguous() for name, each in list(parameters.items())[-8:]}
    back = load(save(sample))
    changed = [name for name, each in sample.items() if not torch.equal(each, back[name])]
    if changed:
        raise ConfigError(f"the weights {changed[0]} do not survive being saved", remedy="Choose another model.")
    return Decision("saving", "lossless", f"{len(sample)} of {len(parameters)} trained tensors read back bit for bit")
