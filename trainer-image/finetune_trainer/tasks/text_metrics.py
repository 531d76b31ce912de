"""Texts against texts. Definitions are those of SQuAD's script, of rouge_score and of sacrebleu; tests compare them."""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NO_WORD = re.compile(r"[^a-z0-9]+")


def squad(told: Sequence[str], gold: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return how many answers are right to the word, and the mean F1 of their words.

    Args:
        told: One answer per question, empty for none.
        gold: The right answers of each question, one empty text where there is none.

    Returns:
        exact_match and f1 between 0 and 1.
    """
    pairs = list(zip(told, gold, strict=True))
    exact = [max(float(normalise(answer) == normalise(right)) for right in rights) for answer, rights in pairs]
    f1 = [
        max(_word_f1(normalise(answer).split(), normalise(right).split()) for right in rights)
        for answer, rights in pairs
    ]
    return {"exact_match": float(np.mean(exact)), "f1": float(np.mean(f1))}


def normalise(text: str) -> str:
    """Return a text in lower case without punctuation, articles and surplus spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _word_f1(told: Sequence[str], right: Sequence[str]) -> float:
    if not told or not right:
        return float(told == right)
    shared = sum((Counter(told) & Counter(right)).values())
    return _f1(shared, len(told), len(right))


def rouge(told: Sequence[str], gold: Sequence[str]) -> dict[str, float]:
    """Return the mean F1 of single words, of pairs, and of the longest common subsequence, between 0 and 1.

    Words are runs of a to z and digits, not stemmed, as rouge_score has them.
    """
    pairs = [
        (_NO_WORD.sub(" ", a.lower()).split(), _NO_WORD.sub(" ", b.lower()).split())
        for a, b in zip(told, gold, strict=True)
    ]
    return {
        "rouge1": float(np.mean([_gram_f1(a, b, 1) for a, b in pairs])),
        "rouge2": float(np.mean([_gram_f1(a, b, 2) for a, b in pairs])),
        "rougeL": float(np.mean([_f1(_common(a, b), len(a), len(b)) for a, b in pairs])),
    }


def _gram_f1(told: Sequence[str], right: Sequence[str], size: int) -> float:
    ours, theirs = (Counter(zip(*(words[at:] for at in range(size)), strict=False)) for words in (told, right))
    return _f1(sum((ours & theirs).values()), sum(ours.values()), sum(theirs.values()))


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    lengths = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for at, each in enumerate(other, start=1):
            above = lengths[at]
            lengths[at] = diagonal + 1 if word == each else max(above, lengths[at - 1])
            diagonal = above
    return lengths[-1]


def _f1(shared: int, told: int, right: int) -> float:
    return 2.0 * shared / (told + right) if shared else 0.0


def translation(told: Sequence[str], gold: Sequence[str]) -> dict[str, float]:
    """Return BLEU and chrF of the whole set by sacrebleu, between 0 and 100."""
    from sacrebleu import corpus_bleu, corpus_chrf  # noqa: PLC0415 - for this task alone

    # force: the texts may end in a full stop, which sacrebleu takes for a sign of tokenised ones.
    bleu = corpus_bleu(list(told), [list(gold)], force=True)
    return {"bleu": float(bleu.score), "chrf": float(corpus_chrf(list(told), [list(gold)]).score)}
