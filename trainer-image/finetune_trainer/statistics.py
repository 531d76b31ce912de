"""Running statistics that training leaves as they are.

Batch normalisation in training mode makes a row's output depend on its neighbours, and so on micro-batch and number of
processes. A pretrained network is fine-tuned with the statistics that it came with (as detectors and segmenters do).
"""

from types import MethodType

from torch import nn

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:  # noqa: ARG001 - nn.Module.train's signature
    return nn.Module.train(module, mode=False)


def freeze_statistics(model: nn.Module) -> None:
    """Keep every batch normalisation in evaluation mode; its weight and bias are trained as any others."""
    for module in model.modules():
        if isinstance(module, _KINDS):
            module.train = MethodType(_stay, module)
            module.eval()
