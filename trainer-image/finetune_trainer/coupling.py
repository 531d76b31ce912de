"""Losses in which the rows of a step are compared with each other, such as those with in-batch negatives.

What every row brings to the others (its embedding) is computed first, without gradients, and gathered from all
processes; each pass then computes its own rows again, with gradients, among those of everyone (GradCache, Gao et al.
2021). The sum of the passes' gradients is the gradient of the whole, so micro-batch and number of processes change
memory and time alone. Each pass is seeded before both computations: dropout falls alike.

Legend: B rows of a pass, N rows of the step.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from finetune_trainer.distributed import Group
from finetune_trainer.tasks.base import EVERYONE, PLACE, Batch, Coupled
from finetune_trainer.tasks.scoring import Learned


def introduce(
    task: Learned,
    model: nn.Module,
    batches: Sequence[Batch],
    group: Group,
    begin_pass: Callable[[int], AbstractContextManager[object]],
) -> list[Batch]:
    """Return the passes of a step, with what all rows bring where the task asks for it.

    Args:
        task: Any task; only a `Coupled` one changes anything.
        model: What computes embeddings.
        batches: The passes of this process, maybe none.
        group: The processes that share the step; all of them must call this.
        begin_pass: Seeds the pass of this number and returns its number format.

    Returns:
        The passes; `everyone` is [N, ...] and `place` the rows of a pass in it, [B].
    """
    if not isinstance(task, Coupled):
        return list(batches)
    mine: list[Tensor] = []
    for number, batch in enumerate(batches):
        with torch.no_grad(), begin_pass(number):
            mine.append(task.embed(model, batch))
    by_rank: list[list[Tensor]] = group.gather([each.cpu() for each in mine])
    everyone = torch.cat([each for parts in by_rank for each in parts]).to(group.device)
    start = sum(len(each) for parts in by_rank[: group.rank] for each in parts)
    introduced: list[Batch] = []
    for batch in batches:
        place = torch.arange(start, start + len(batch.rows), device=group.device)
        start += len(batch.rows)
        introduced.append(Batch({**batch.tensors, EVERYONE: everyone, PLACE: place}, batch.rows))
    return introduced
