"""The processes that train together: sums, gathers and barriers, all of them nothing for a single process.

Gradients are summed here rather than by DistributedDataParallel, which divides by the number of processes and demands
that each of them has rows; see docs/decisions/0003-sum-gradients.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

_BUCKET_ELEMENTS = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Group:
    """One process, `rank` of `world`."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes."""
        if self.world > 1:
            torch.distributed.all_reduce(tensor)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every gradient by its sum; a process without rows contributes zeros."""
        if self.world == 1:
            return
        for bucket in _buckets(parameters):
            parts = [torch.zeros_like(each) if each.grad is None else each.grad for each in bucket]
            flat = torch.cat([part.reshape(-1) for part in parts])
            torch.distributed.all_reduce(flat)
            for each, summed in zip(bucket, flat.split([part.numel() for part in parts]), strict=True):
                each.grad = summed.view_as(each)

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, in the order of ranks, on all of them."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            torch.distributed.barrier()

    def close(self) -> None:
        """Leave the group."""
        if self.world > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def join_group(rank: int, local_rank: int, world: int, timeout_s: float) -> Group:
    """Join the processes of this run; they find each other by MASTER_ADDR and MASTER_PORT.

    Args:
        rank: This process, from 0.
        local_rank: This process among those of its machine.
        world: Number of processes.
        timeout_s: Longest wait in a collective.

    Returns:
        The group.
    """
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if world > 1:
        backend = "nccl" if cuda else "gloo"
        torch.distributed.init_process_group(backend, rank=rank, world_size=world, timeout=timedelta(seconds=timeout_s))
    return Group(rank, world, device)


def _buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    buckets: list[list[nn.Parameter]] = [[]]
    filled = 0
    for each in parameters:
        if filled + each.numel() > _BUCKET_ELEMENTS and buckets[-1]:
            buckets.append([])
            filled = 0
        buckets[-1].append(each)
        filled += each.numel()
    return buckets
