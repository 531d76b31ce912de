"""How far written words are from spoken ones. Definitions are jiwer's; a test compares them."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

ERROR_RATES = ("wer", "cer")


def error_rates(told: Sequence[str], gold: Sequence[str]) -> dict[str, float]:
    """Return the edits that turn the right texts into the written ones, per word and per character of the right ones.

    Args:
        told: What was written.
        gold: What is right; every text has a word.

    Returns:
        wer and cer of the whole set: 0 is perfect, and more than 1 is possible.
    """
    return {
        "wer": _rate([text.split() for text in told], [text.split() for text in gold]),
        "cer": _rate([text.strip() for text in told], [text.strip() for text in gold]),
    }


def _rate(told: Sequence[Sequence[Hashable]], gold: Sequence[Sequence[Hashable]]) -> float:
    return sum(map(edits, told, gold)) / sum(map(len, gold))


def edits(told: Sequence[Hashable], gold: Sequence[Hashable]) -> int:
    """Return the fewest insertions, deletions and replacements (Levenshtein) between two sequences.

    A column of the table of distances is two integers, whose bits say where it rises and where it falls (Myers 1999 in
    the form of Hyyrö 2003): one step per element of `told` instead of one per pair.
    """
    if not gold:
        return len(told)
    places: dict[Hashable, int] = defaultdict(int)
    for at, each in enumerate(gold):
        places[each] |= 1 << at
    every, last = (1 << len(gold)) - 1, 1 << (len(gold) - 1)
    rises, falls, distance = every, 0, len(gold)
    for each in told:
        match = places.get(each, 0)
        level = (((match & rises) + rises) ^ rises) | match | falls
        up = (falls | ~(level | rises)) & every
        down = rises & level
        distance += bool(up & last) - bool(down & last)
        up = (up << 1) | 1
        rises = ((down << 1) | ~(level | up)) & every
        falls = up & level & every
    return distance
