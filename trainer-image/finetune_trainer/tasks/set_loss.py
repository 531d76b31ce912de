"""The loss of DETR and its relatives, as sums: every object is matched with one box of the model, the rest is nothing.

Matching is done image by image, so a sum over rows does not know how they were batched. What divides the sums is known
before any model is asked: how many boxes there are, and the weights of all queries' classes.

Sources: Carion et al. 2020 (softmax over the classes and `no object`); Zhu et al. 2021 (a sigmoid each, focal loss).
Legend: B rows, Q queries, C classes, N objects of the row with the most, L layers of the decoder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_NOTHING = -1
_GAMMA, _TINY = 2.0, 1e-8
_COST_ALPHA = 0.25


@dataclass(frozen=True, slots=True)
class SetLoss:
    """How much each part of the cost and of the loss weighs, from the model's config."""

    class_cost: float
    box_cost: float
    giou_cost: float
    box_weight: float
    giou_weight: float
    no_object: float | None
    """Weight of `no object`; None for a sigmoid per class."""
    focal_alpha: float

    @classmethod
    def of(cls, config: Any, no_object: float | None) -> "SetLoss":
        """Return the loss that a model's config describes."""
        return cls(
            float(config.class_cost),
            float(config.bbox_cost),
            float(config.giou_cost),
            float(config.bbox_loss_coefficient),
            float(config.giou_loss_coefficient),
            no_object,
            float(getattr(config, "focal_alpha", _COST_ALPHA)),
        )

    def sums(self, logits_BQC: Tensor, boxes_BQ4: Tensor, labels_BN: Tensor, objects_BN4: Tensor) -> Tensor:
        """Return the sums of each row, [B, 2]: of the classes, and of the boxes with their overlap.

        Args:
            logits_BQC: Scores of the classes, with `no object` last for a softmax.
            boxes_BQ4: Middle and size, as parts of the canvas.
            labels_BN: Class of each object; -1 where there is none.
            objects_BN4: Their boxes.

        Returns:
            The sums, not divided by anything.
        """
        logits_BQC, boxes_BQ4 = logits_BQC.float(), boxes_BQ4.float()
        row, query, place = self._match(logits_BQC, boxes_BQ4, labels_BN, objects_BN4)
        classes = torch.full(logits_BQC.shape[:2], _NOTHING, dtype=torch.int64, device=logits_BQC.device)
        classes[row, query] = labels_BN[row, place]
        found, wanted = boxes_BQ4[row, query], objects_BN4[row, place]
        each = self.box_weight * (found - wanted).abs().sum(-1)
        each = each + self.giou_weight * (1.0 - overlap(corners(found), corners(wanted)))
        boxes_B = torch.zeros(len(labels_BN), device=each.device).index_add(0, row, each)
        return torch.stack([self._classes(logits_BQC, classes), boxes_B], dim=1)

    def _classes(self, logits_BQC: Tensor, classes_BQ: Tensor) -> Tensor:
        """Return the loss of the classes, summed over each row's queries."""
        if self.no_object is None:
            wanted = F.one_hot(classes_BQ + 1, logits_BQC.shape[-1] + 1)[..., 1:].to(logits_BQC)
            chance = logits_BQC.sigmoid()
            right = chance * wanted + (1 - chance) * (1 - wanted)
            weight = self.focal_alpha * wanted + (1 - self.focal_alpha) * (1 - wanted)
            loss = F.binary_cross_entropy_with_logits(logits_BQC, wanted, reduction="none")
            return (weight * (1 - right) ** _GAMMA * loss).sum((1, 2))
        last = logits_BQC.shape[-1] - 1
        named = torch.where(classes_BQ == _NOTHING, last, classes_BQ)
        loss = F.cross_entropy(logits_BQC.transpose(1, 2), named, reduction="none")
        return torch.where(named == last, self.no_object, 1.0).mul(loss).sum(1)

    @torch.no_grad()
    def _match(self, logits: Tensor, boxes: Tensor, labels: Tensor, objects: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return row, query and place of each object, so that the sum of their costs is the least."""
        from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - a second that other tasks do not need

        index = labels.clamp(min=0)[:, None, :].expand(-1, logits.shape[1], -1)
        if self.no_object is None:
            chance = logits.sigmoid().gather(2, index)
            yes = _COST_ALPHA * (1 - chance) ** _GAMMA * -(chance + _TINY).log()
            no = (1 - _COST_ALPHA) * chance**_GAMMA * -(1 - chance + _TINY).log()
            cost = self.class_cost * (yes - no)
        else:
            cost = -self.class_cost * logits.softmax(-1).gather(2, index)
        cost = cost + self.box_cost * (boxes[:, :, None] - objects[:, None]).abs().sum(-1)
        cost = cost - self.giou_cost * overlap(corners(boxes)[:, :, None], corners(objects)[:, None])
        # A model that diverged: the loss tells of it, where its rows are known.
        cost = torch.nan_to_num(cost, nan=torch.finfo(cost.dtype).max).cpu().numpy()
        counts = (labels != _NOTHING).sum(1).tolist()
        pairs = [linear_sum_assignment(cost[at, :, :count]) for at, count in enumerate(counts)]
        row = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor([len(query) for query, _ in pairs]))
        query, place = (torch.cat([torch.from_numpy(pair[part]) for pair in pairs]) for part in (0, 1))
        return row.to(labels.device), query.to(labels.device), place.to(labels.device)


def corners(boxes: Tensor) -> Tensor:
    """Return left, top, right and bottom of boxes given by middle and size, [..., 4]."""
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """Return the generalised intersection over union (Rezatofighi et al. 2019) of boxes given by corners, [...]."""
    inner = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp(min=0)
    outer = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])
    both, hull = inner.prod(-1), outer.prod(-1)
    union = (one[..., 2:] - one[..., :2]).prod(-1) + (other[..., 2:] - other[..., :2]).prod(-1) - both
    # Boxes without an area, as padding is, meet nothing.
    return both / union.clamp(min=_TINY) - (hull - union) / hull.clamp(min=_TINY)


def weights_of(counts_B: Tensor, queries: int, no_object: float | None) -> Tensor:
    """Return what the sums of rows are divided by: weights of all queries' classes, and objects, [2].

    Args:
        counts_B: Objects of each row.
        queries: Boxes that the model gives for each row.
        no_object: As in `SetLoss`.

    Returns:
        Both; a batch without objects divides by one.
    """
    objects = counts_B.sum()
    divisor = objects.clamp(min=1.0)
    if no_object is None:
        return torch.stack([divisor, divisor])
    return torch.stack([objects + no_object * (queries * len(counts_B) - objects), divisor])


def set_loss(
    model: nn.Module, inputs: dict[str, Tensor], sums: Callable[[Tensor, Tensor], Tensor], labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Let a model call `sums` in place of its own loss, for the last layer and, where it is so configured, all others.

    Args:
        model: Of the DETR family; its loss is its own again afterwards.
        inputs: Of its forward.
        sums: From logits and boxes of one layer to sums of rows.
        labels: What asks the model for its loss.

    Returns:
        The sums of rows, added over the layers, [B, 2]; logits and boxes of the last one.
    """
    whole: Any = model
    last: list[Tensor] = []

    def every_layer(logits: Tensor, _: Any, __: Any, boxes: Tensor, config: Any, *others: Any) -> tuple[Any, Any, Any]:
        last.extend((logits, boxes))
        total = sums(logits, boxes)
        if config.auxiliary_loss and others and others[0] is not None:
            for logits_each, boxes_each in zip(others[0][:-1], others[1][:-1], strict=True):
                total = total + sums(logits_each, boxes_each)
        return total, {}, None

    before = whole.loss_function
    whole.loss_function = every_layer
    try:
        return whole(**inputs, labels=labels).loss, last[0], last[1]
    finally:
        whole.loss_function = before
