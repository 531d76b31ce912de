"""What the tasks with labels share: finding them in the rows, the classifier, answers, predictions of one label.

Legend: B rows, C labels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from finetune_trainer.data.schema import Example
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import Array
from finetune_trainer.errors import DataError
from finetune_trainer.tasks import metrics
from finetune_trainer.tasks.base import Answer, Predictions


def _label_of(example: Example) -> tuple[str, ...]:
    return as_tuple(example.label)


def find_labels(splits: Splits, *, least: int, of: Callable[[Example], tuple[str, ...]] = _label_of) -> tuple[str, ...]:
    """Return the labels of the training rows in their natural order.

    Args:
        splits: All sets.
        least: Fewer cannot be learned.
        of: The labels of a row.

    Returns:
        The labels.

    Raises:
        DataError: There are fewer, or a held-out row has one that training never sees.
    """
    labels = sorted({label for example in splits.train for label in of(example)}, key=_natural)
    if len(labels) < least:
        raise DataError(
            f"the training rows hold {len(labels)} label ({', '.join(labels)}), at least two are needed",
            remedy="Check that the file is complete and data.fields.label names the right column.",
        )
    known = set(labels)
    for name in ("validation", "test"):
        for example in splits.named()[name]:
            unseen = [label for label in of(example) if label not in known]
            if unseen:
                raise DataError(
                    f"{example.place}: the label {unseen[0]!r} of the {name} rows is not among the training labels "
                    f"({', '.join(labels[:10])})",
                    remedy="Add training rows with that label, or correct the spelling.",
                )
    return tuple(labels)


def check_labels(examples: Sequence[Example], known: Mapping[int, str] | None, path: str) -> None:
    """Refuse rows with a label that the training rows do not have.

    Args:
        examples: Rows of the same task.
        known: The labels of the training rows; None for a task without labels.
        path: Where the manifest names the rows.

    Raises:
        DataError: There is one.
    """
    if known is None:
        return
    for example in examples:
        for label in as_tuple(example.label):
            if label not in known.values():
                raise DataError(
                    f"{path}: {example.place}: no training row has the label {label!r}",
                    remedy="Add training rows with that label, or leave these out.",
                )


def class_number(index: Mapping[str, int], label: str, example: Example) -> int:
    """Return the number of an example's label.

    Args:
        index: Numbers of the labels that are known.
        label: One of the example's labels or tags.
        example: Whose it is.

    Returns:
        Its number.

    Raises:
        DataError: Training never saw it; an artifact can be judged by rows that it did not come from.
    """
    if label not in index:
        raise DataError(
            f"{example.place}: {label!r} is not among what the model was trained on ({', '.join(list(index)[:10])})",
            remedy="Correct the spelling, or leave the row out.",
        )
    return index[label]


def likeliest(labels: Sequence[str], logits_C: Array) -> Answer:
    """Return the likeliest `label`, its probability as `score`, and each label's as `scores`."""
    chances_C = np.exp(logits_C - logits_C.max())
    chances_C /= chances_C.sum()
    best = int(logits_C.argmax())
    scores = dict(zip(labels, chances_C.tolist(), strict=True))
    return {"label": labels[best], "score": scores[labels[best]], "scores": scores}


def classifier_config(labels: Sequence[str]) -> Mapping[str, Any]:
    """Return what a model's config says of a classifier over labels."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def one_label_predictions(logits_BC: Tensor, labels_B: Tensor) -> Predictions:
    """Return `scores` [B, C], `labels` and each row's `loss`."""
    loss = F.cross_entropy(logits_BC, labels_B, reduction="none")
    return {"scores": logits_BC.cpu().numpy(), "labels": labels_B.cpu().numpy(), "loss": loss.cpu().numpy()}


def one_label_metrics(predictions: Predictions) -> dict[str, float]:
    """Return loss, accuracy, and precision, recall and F1 averaged over the labels."""
    loss = float(predictions["loss"].astype(np.float64).mean())
    return {"loss": loss} | metrics.single_label(predictions["scores"], predictions["labels"])


def as_tuple(label: object) -> tuple[str, ...]:
    """Return the labels of a row that has one or any number of them."""
    return label if isinstance(label, tuple) else (str(label),)


def _natural(label: str) -> tuple[int, int, str]:
    return (0, int(label), "") if label.isascii() and label.isdigit() else (1, 0, label)
