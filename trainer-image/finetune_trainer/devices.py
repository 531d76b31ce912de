"""What the GPUs of this machine say about themselves, read when Prometheus asks.

torch asks the driver by NVML (package nvidia-ml-py), or AMD's SMI. No context is made on any GPU: a GPU of another rank
would lose hundreds of MiB to it.
"""

from collections.abc import Callable
from typing import Final

import torch

from finetune_trainer.series import Device

_PERCENT: Final = 100.0
_MILLIWATTS: Final = 1000.0


def read() -> list[Device]:
    """Return the GPUs that this process may see; none before it uses one."""
    if not torch.cuda.is_initialized():
        return []
    return [_read_one(index) for index in range(torch.cuda.device_count())]


def _read_one(index: int) -> Device:
    return Device(
        index,
        _asked(torch.cuda.utilization, index, _PERCENT),
        _asked(torch.cuda.device_memory_used, index, 1.0),
        float(torch.cuda.get_device_properties(index).total_memory),
        _asked(torch.cuda.temperature, index, 1.0),
        _asked(torch.cuda.power_draw, index, _MILLIWATTS),
    )


def _asked(ask: Callable[[int], int], index: int, unit: float) -> float | None:
    try:
        return ask(index) / unit
    except Exception:  # noqa: BLE001 - NVML and AMD's SMI have errors of their own for what a card or a MIG slice lacks
        return None
