"""How much of a machine one node's trainer gets, and how many processes share it."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from finetune_api.spec import Workers
from finetune_operator.plan.quantity import GI, amount, mebibytes

_MIG: Final = "nvidia.com/mig-"
_EPHEMERAL: Final = "ephemeral-storage"
_OF_ANY_CONTAINER: Final = ("cpu", "memory", _EPHEMERAL)
_SHM_PER_PROCESS_BYTES: Final = GI
# The contract's bound on processesPerNode; no machine has more GPUs.
_MAX_PROCESSES: Final = 64


def gpu_count(limits: Mapping[str, str], gpu_resources: Iterable[str]) -> int:
    """Return the GPUs, or MIG slices, among a node's limits; fractions are dropped."""
    known = frozenset(gpu_resources)
    return sum(int(amount(each)) for name, each in limits.items() if name in known or name.startswith(_MIG))


def processes_per_node(workers: Workers, gpu_resources: Iterable[str]) -> int:
    """Return what the manifest says, else one process per GPU, else 1."""
    if workers.processes_per_node is not None:
        return workers.processes_per_node
    limits = workers.resources.limits
    return min(gpu_count(limits, gpu_resources), _MAX_PROCESSES) or 1


def trainer_resources(workers: Workers, defaults: Mapping[str, str], ephemeral_size: str) -> dict[str, Any]:
    """Return the trainer's resources.

    Args:
        workers: What the manifest says.
        defaults: Requests for what it leaves open.
        ephemeral_size: Size that was asked for a work folder on the machine's disk, empty for none. A size that is
            written down is set aside; the default is only a bound, so that small machines still take small jobs.

    Returns:
        limits and requests. What has a limit and no request is left alone: Kubernetes takes the limit for both, and a
        default above it would be refused.
    """
    limits = workers.resources.limits
    requests = dict(workers.resources.requests)
    for name, value in defaults.items():
        if name not in limits:
            requests.setdefault(name, value)
    if ephemeral_size and _EPHEMERAL not in limits:
        requests.setdefault(_EPHEMERAL, ephemeral_size)
    return {"limits": limits, "requests": requests} if limits else {"requests": requests}


def without_devices(resources: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part that a container without devices needs too, since a quota may demand it of every container."""
    return {
        kind: kept
        for kind, values in resources.items()
        if (kept := {name: value for name, value in values.items() if name in _OF_ANY_CONTAINER})
    }


def shm_size(wanted: str | None, processes: int, memory_limit: str | None) -> str:
    """Return the size of /dev/shm, through which processes and data loaders hand over batches.

    Args:
        wanted: What the manifest says.
        processes: Processes on the node.
        memory_limit: The trainer's memory limit.

    Returns:
        What is wanted, else 1Gi per process and at most half of the memory limit, against which it counts.
    """
    if wanted is not None:
        return wanted
    size_bytes = processes * _SHM_PER_PROCESS_BYTES
    if memory_limit is not None:
        size_bytes = min(size_bytes, int(amount(memory_limit)) // 2)
    return mebibytes(size_bytes)
