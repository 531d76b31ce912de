"""How well masks are told: from three counts per class, which add up over images of any size.

Legend: C classes, R rows, H and W height and width of an image.
"""

import numpy as np
import torch
from torch import Tensor

from finetune_trainer.data.masks import IGNORED
from finetune_trainer.data.table import Array


def pixel_counts(told: Tensor, mask: Tensor, classes: int) -> tuple[Array, Array, Array]:
    """Count the pixels of an image by class.

    Args:
        told: What was predicted, [H, W].
        mask: What is there, [H, W]; `IGNORED` counts nowhere.
        classes: How many there are.

    Returns:
        How many are right, predicted and present, [C] each.
    """
    known = mask != IGNORED
    told, there = told[known].long(), mask[known].long()
    parts = (there[told == there], told, there)
    right, predicted, present = (torch.bincount(each, minlength=classes).cpu().numpy() for each in parts)
    return right, predicted, present


def mask_metrics(right: Array, told: Array, present: Array) -> dict[str, float]:
    """Return the measures of all rows together.

    Args:
        right: Pixels of each class that are right, [R, C].
        told: Those predicted.
        present: Those that are there.

    Returns:
        Intersection over union, averaged over the classes that are told or there (`mean_iou`), and the part of the
        pixels that is right (`pixel_accuracy`).
    """
    right, told, present = (each.sum(axis=0).astype(np.float64) for each in (right, told, present))
    union = told + present - right
    seen = union > 0
    return {
        "mean_iou": float((right[seen] / union[seen]).mean()),
        "pixel_accuracy": float(right.sum() / present.sum()),
    }
