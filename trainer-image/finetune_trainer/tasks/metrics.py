"""Metrics from predictions, in float64. Definitions are scikit-learn's; a test compares them."""

import math

import numpy as np
import numpy.typing as npt

from finetune_api.metric_names import LOWER_IS_BETTER
from finetune_trainer.data.table import Array

_MAX_EXPONENT = 700.0
_TOP = 10


def is_better(metric: str, new: float, old: float) -> bool:
    """Tell whether a metric improved; a value that is not finite never is better."""
    if not math.isfinite(new):
        return False
    return new < old if metric in LOWER_IS_BETTER else new > old


def perplexity(loss: float) -> float:
    """Return e^loss, infinity where it overflows."""
    return math.exp(loss) if loss < _MAX_EXPONENT else math.inf


def single_label(scores: Array, labels: Array) -> dict[str, float]:
    """Return accuracy and macro-averaged precision, recall and F1.

    Args:
        scores: Logits, [N, C].
        labels: Class of each row, [N].

    Returns:
        The metrics; a class that is neither predicted nor present is left out of the averages.
    """
    predicted = scores.argmax(axis=1)
    classes = scores.shape[1]
    right = np.bincount(labels[predicted == labels], minlength=classes).astype(np.float64)
    told = np.bincount(predicted, minlength=classes).astype(np.float64)
    present = np.bincount(labels, minlength=classes).astype(np.float64)
    seen = (told + present) > 0
    return {"accuracy": float((predicted == labels).mean())} | {
        name: float(value[seen].mean()) for name, value in _scores(right, told, present).items()
    }


def multi_label(scores: Array, labels: Array) -> dict[str, float]:
    """Return the accuracy of whole rows, and micro-averaged precision, recall and F1.

    Args:
        scores: Logits, [N, C]; above 0 the label is predicted.
        labels: 1 where the label holds, [N, C].

    Returns:
        The metrics.
    """
    predicted, truth = scores > 0, labels > 0
    right = np.array([np.logical_and(predicted, truth).sum()], dtype=np.float64)
    found = _scores(right, np.array([predicted.sum()], np.float64), np.array([truth.sum()], np.float64))
    return {"accuracy": float((predicted == truth).all(axis=1).mean())} | {
        name: float(value[0]) for name, value in found.items()
    }


def regression(predicted: Array, truth: Array) -> dict[str, float]:
    """Return mean absolute error, root mean squared error, R2 and Pearson's correlation of [N] numbers.

    R2 and the correlation are 0 when the truth, or the prediction, does not vary.
    """
    predicted, truth = predicted.astype(np.float64), truth.astype(np.float64)
    error = predicted - truth
    spread = float(((truth - truth.mean()) ** 2).sum())
    varies = spread > 0 and float(predicted.std()) > 0
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "r2": 1.0 - float((error**2).sum()) / spread if spread > 0 else 0.0,
        "pearson": float(np.corrcoef(predicted, truth)[0, 1]) if varies else 0.0,
    }


def spearman(predicted: Array, truth: Array) -> float:
    """Return Pearson's correlation of ranks, equal values sharing the mean of theirs; 0 when one does not vary."""
    return regression(_ranks(predicted), _ranks(truth))["pearson"]


def _ranks(values: Array) -> npt.NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2.0)[place]


def ranking(ranks: Array) -> dict[str, float]:
    """Return how high the right one stands: recall and NDCG (one right one per row), and the mean reciprocal rank.

    Args:
        ranks: Place of the right one, from 1; 0 where it cannot be told, [N].

    Returns:
        The metrics.
    """
    known = ranks > 0
    place = np.where(known, ranks, 1).astype(np.float64)
    top = known & (ranks <= _TOP)
    return {
        "recall_at_1": float((ranks == 1).mean()),
        "recall_at_10": float(top.mean()),
        "ndcg_at_10": float(np.where(top, 1.0 / np.log2(place + 1.0), 0.0).mean()),
        "mrr": float(np.where(known, 1.0 / place, 0.0).mean()),
    }


def _scores(
    right: npt.NDArray[np.float64], told: npt.NDArray[np.float64], present: npt.NDArray[np.float64]
) -> dict[str, npt.NDArray[np.float64]]:
    precision = right / np.maximum(told, 1.0)
    recall = right / np.maximum(present, 1.0)
    f1 = 2.0 * right / np.maximum(told + present, 1.0)
    return {"precision": precision, "recall": recall, "f1": f1}
