"""Entities in sequences of tags, and how many of them are found. Definitions are seqeval's; a test compares them."""

from collections.abc import Sequence

import numpy as np

from finetune_trainer.tasks import metrics

Tags = Sequence[str]
_PREFIXES = frozenset("BIES")
_OUTSIDE = ("O", "")


def judge(truth: Sequence[Tags], told: Sequence[Tags]) -> dict[str, float]:
    """Return the accuracy of tags, and precision, recall and F1 of entities, or of tags without a scheme.

    Args:
        truth: Tags of each row.
        told: As many predicted tags.

    Returns:
        The metrics.
    """
    flat_truth, flat_told = ([tag for tags in rows for tag in tags] for rows in (truth, told))
    if not all(_in_scheme(tag) for tag in {*flat_truth, *flat_told}):
        return _plain(flat_truth, flat_told)
    right = found = present = 0
    for ours, theirs in zip(told, truth, strict=True):
        mine, gold = entities(ours), entities(theirs)
        right, found, present = right + len(mine & gold), found + len(mine), present + len(gold)
    accuracy = sum(a == b for a, b in zip(flat_truth, flat_told, strict=True)) / max(1, len(flat_truth))
    return {
        "accuracy": accuracy,
        "precision": right / max(1, found),
        "recall": right / max(1, present),
        "f1": 2 * right / max(1, found + present),
    }


def entities(tags: Tags) -> set[tuple[str, int, int]]:
    """Return (type, first word, last word) of every entity of a row.

    A tag without a beginning before it begins one itself, as in conlleval: I-PER after O, or I-PER after B-LOC.
    """
    found: set[tuple[str, int, int]] = set()
    kind, start = "", -1
    before = _OUTSIDE
    for at, tag in enumerate([*tags, "O"]):
        here = _parts(tag)
        if start >= 0 and _ends(before, here):
            found.add((kind, start, at - 1))
            start = -1
        if _starts(before, here):
            kind, start = here[1], at
        before = here
    return found


def _parts(tag: str) -> tuple[str, str]:
    prefix, _, kind = tag.partition("-")
    return (prefix, kind)


def _in_scheme(tag: str) -> bool:
    prefix, dash, kind = tag.partition("-")
    return tag == "O" or (prefix in _PREFIXES and bool(dash) and bool(kind))


def _ends(before: tuple[str, str], here: tuple[str, str]) -> bool:
    if before[0] in {"E", "S"}:
        return True
    return before[0] in {"B", "I"} and (here[0] in {"B", "S", "O"} or here[1] != before[1])


def _starts(before: tuple[str, str], here: tuple[str, str]) -> bool:
    if here[0] in {"B", "S"}:
        return True
    return here[0] in {"I", "E"} and (before[0] in {"E", "S", "O"} or here[1] != before[1])


def _plain(truth: Tags, told: Tags) -> dict[str, float]:
    names = sorted({*truth, *told})
    index = {name: number for number, name in enumerate(names)}
    scores = np.eye(len(names))[[index[tag] for tag in told]]
    return metrics.single_label(scores, np.array([index[tag] for tag in truth]))
