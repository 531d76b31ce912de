"""What the machine can do, measured once per job: threads, number format, memory. Every answer has its reason."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

_CGROUP_QUOTA_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_QUOTA_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_CGROUP_PERIOD_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
_MEMORY_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
_NO_LIMIT_BYTES = 1 << 60
_GEMM_SIZE = 384
# What another choice than the usual one must gain before a measurement is believed.
_FAR_FASTER = 1.5
_MEMORY_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided where the manifest leaves it open, and why."""

    name: str
    value: str
    reason: str


def cpu_quota() -> float:
    """Return how many CPUs this process may use: the lower of its affinity and its cgroup's quota."""
    count = float(len(os.sched_getaffinity(0)))
    try:
        if _CGROUP_QUOTA_V2.exists():
            quota, period = _CGROUP_QUOTA_V2.read_text(encoding="ascii").split()
            return count if quota == "max" else min(count, int(quota) / int(period))
        quota_us = int(_CGROUP_QUOTA_V1.read_text(encoding="ascii"))
        period_us = int(_CGROUP_PERIOD_V1.read_text(encoding="ascii"))
        return min(count, quota_us / period_us) if quota_us > 0 else count
    except (OSError, ValueError):
        return count


def available_memory_bytes() -> int:
    """Return how much more memory this process may use: the lower of the machine's and its cgroup's."""
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            pages = int(line.split()[1]) * 1024
    for limit_file, usage_file in _MEMORY_LIMITS:
        try:
            limit = int(limit_file.read_text(encoding="ascii"))
            usage = int(usage_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        if limit < _NO_LIMIT_BYTES:
            return min(pages, max(0, limit - usage))
    return pages


def choose_threads(processes_here: int) -> Decision:
    """Decide the threads of one process: its share of the CPUs, unless one thread alone is far faster.

    That is so on CPUs which the quota promises and the machine does not have. A neighbour that is busy for a moment
    must not decide it, since the sums of one thread and of several differ in their last bits.
    """
    quota = cpu_quota()
    share = max(1, math.floor(quota / processes_here))
    if share == 1:
        return Decision("threads", "1", f"{quota:g} CPUs for {processes_here} processes")
    rates = {1: 0.0, share: 0.0}
    for count in (1, share) * 2:
        torch.set_num_threads(count)
        rates[count] = max(rates[count], _gemm_rate(torch.float32, 3 * _GEMM_SIZE))
    best = 1 if rates[1] > _FAR_FASTER * rates[share] else share
    reason = f"{quota:g} CPUs; {rates[share]:.0f} GFLOP/s with {share} threads, {rates[1]:.0f} with one"
    return Decision("threads", str(best), reason)


def choose_dtype(wanted: str, device: torch.device) -> Decision:
    """Decide the number format of the matrix products: what was asked for, else the faster one."""
    if wanted != "auto":
        return Decision("precision", wanted, "set in the manifest")
    if device.type == "cuda":
        fine = torch.cuda.is_bf16_supported()
        return Decision("precision", "bf16" if fine else "fp32", "the GPU has bf16" if fine else "the GPU has no bf16")
    fp32 = _gemm_rate(torch.float32, _GEMM_SIZE)
    bf16 = _gemm_rate(torch.bfloat16, _GEMM_SIZE)
    best = "bf16" if bf16 > _FAR_FASTER * fp32 else "fp32"
    return Decision("precision", best, f"measured: fp32 {fp32:.0f}, bf16 {bf16:.1f} GFLOP/s")


def autocast(device: torch.device, precision: str) -> Callable[[], torch.autocast]:
    """Return what computes a pass in bf16 where that was chosen, and changes nothing otherwise."""
    return partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def activation_bytes(config: Any, rows: int, tokens: int, *, trained: bool = True) -> int:
    """Estimate the activations of one pass.

    Per token and layer about 16 hidden-sized and 3 intermediate-sized values are kept for the backward pass, and the
    attention scores of fused kernels are not; a pass without gradients keeps one layer.

    Args:
        config: The model's config.
        rows: Sequences in the pass.
        tokens: Length of a sequence.
        trained: Whether a backward pass follows.

    Returns:
        Bytes in float32.
    """
    hidden = int(getattr(config, "hidden_size", 768))
    inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    layers = int(getattr(config, "num_hidden_layers", 12)) if trained else 1
    return 4 * rows * tokens * layers * (16 * hidden + 3 * inner)


def choose_micro_batch(config: Any, batch: int, tokens: int, device: torch.device) -> Decision:
    """Decide how many rows of the longest length a process handles at once, so that activations fit.

    Args:
        config: The model's config.
        batch: Rows of an optimiser step for this process.
        tokens: Longest row in tokens.
        device: Where the model is.

    Returns:
        The largest half, quarter, ... of the batch whose activations take at most half of the free memory.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory_bytes()
    micro = batch
    while micro > 1 and activation_bytes(config, micro, tokens) > free * _MEMORY_SHARE:
        micro = -(-micro // 2)
    need = activation_bytes(config, micro, tokens) / 2**20
    return Decision(
        "microBatch", str(micro), f"about {need:.0f} MiB of activations at most, {free / 2**20:.0f} MiB free"
    )


def seed_everything(*parts: int) -> None:
    """Seed torch from several numbers; what follows is a function of them alone."""
    seed = 0x9E3779B97F4A7C15
    for part in parts:
        seed = ((seed ^ (part & 0xFFFFFFFFFFFFFFFF)) * 0xD6E8FEB86659FD93) & 0xFFFFFFFFFFFFFFFF
        seed ^= seed >> 32
    torch.manual_seed(seed >> 1)


def _gemm_rate(dtype: torch.dtype, size: int) -> float:
    """Return GFLOP/s of a square matrix product, the best of three."""
    left = torch.ones(size, size, dtype=dtype)
    times: list[float] = []
    torch.mm(left, left)
    for _ in range(3):
        start = time.perf_counter()
        torch.mm(left, left)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times) / 1e9
