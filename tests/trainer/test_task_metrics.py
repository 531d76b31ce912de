"""Every metric of text equals its reference implementation on 1,000 random cases."""

import random
import warnings

import numpy as np
import pytest

from finetune_trainer.tasks import entities, text_metrics
from finetune_trainer.tasks.metrics import ranking, spearman

CASES = 1000
WORDS = ["the", "a", "an", "cat,", "sat.", "on", "Mat;", "dog-house", "x1", "\u00e9", "ran", "ran!", "U.S."]
SCHEME = ["O", "O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("PER", "LOC", "X-Y"))]


def sentence(rng: random.Random, most: int = 12) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(0, most)))


def test_entities_and_their_scores_are_seqevals():
    from seqeval import metrics as theirs
    from seqeval.metrics.sequence_labeling import get_entities

    rng = random.Random(0)
    for _ in range(CASES):
        truth = [[rng.choice(SCHEME) for _ in range(rng.randint(1, 12))] for _ in range(rng.randint(1, 5))]
        told = [[rng.choice([tag, *SCHEME]) for tag in row] for row in truth]
        ours = entities.judge(truth, told)
        assert [entities.entities(row) for row in truth] == [set(get_entities(row)) for row in truth]
        with warnings.catch_warnings(action="ignore"):
            for name, function in (
                ("precision", theirs.precision_score),
                ("recall", theirs.recall_score),
                ("f1", theirs.f1_score),
                ("accuracy", theirs.accuracy_score),
            ):
                assert ours[name] == pytest.approx(function(truth, told)), (name, truth, told)


def test_tags_without_a_scheme_are_judged_as_classes():
    from sklearn.metrics import f1_score

    rng = random.Random(0)
    kinds = ["NOUN", "VERB", "B", "O"]
    truth, told = ([[rng.choice(kinds) for _ in range(9)] for _ in range(20)] for _ in range(2))
    flat = [[tag for row in rows for tag in row] for rows in (truth, told)]

    assert entities.judge(truth, told)["f1"] == pytest.approx(f1_score(*flat, average="macro"))


def test_exact_match_and_word_f1_are_squads():
    from torchmetrics.functional.text import squad

    rng = random.Random(0)
    for _ in range(CASES):
        count = rng.randint(1, 4)
        told = [sentence(rng, 5) for _ in range(count)]
        gold = [[rng.choice([answer, sentence(rng, 5)]) for _ in range(rng.randint(1, 3))] for answer in told]
        theirs = squad(
            [{"prediction_text": text, "id": str(i)} for i, text in enumerate(told)],
            [
                {"answers": {"text": texts, "answer_start": [0] * len(texts)}, "id": str(i)}
                for i, texts in enumerate(gold)
            ],
        )
        ours = text_metrics.squad(told, gold)
        assert 100 * ours["exact_match"] == pytest.approx(float(theirs["exact_match"]))
        assert 100 * ours["f1"] == pytest.approx(float(theirs["f1"]), rel=1e-5)


def test_rouge_is_rouge_scores():
    from rouge_score.rouge_scorer import RougeScorer

    rng, scorer = random.Random(0), RougeScorer(["rouge1", "rouge2", "rougeL"])
    for _ in range(CASES):
        told, gold = sentence(rng), sentence(rng)
        theirs = scorer.score(gold, told)
        assert text_metrics.rouge([told], [gold]) == pytest.approx({k: v.fmeasure for k, v in theirs.items()})


def test_bleu_and_chrf_are_of_the_whole_set_and_sacrebleus():
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    rng, bleu, chrf = random.Random(0), BLEU(), CHRF()
    for _ in range(CASES):
        gold = [sentence(rng) for _ in range(3)]
        told = [rng.choice([text, sentence(rng)]) for text in gold]
        ours = text_metrics.translation(told, gold)
        assert ours["bleu"] == pytest.approx(bleu.corpus_score(told, [gold]).score)
        assert ours["chrf"] == pytest.approx(chrf.corpus_score(told, [gold]).score)


def test_ranks_are_scikit_learns():
    from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score

    rng = np.random.default_rng(0)
    for _ in range(CASES):
        rows, items = int(rng.integers(2, 8)), int(rng.integers(12, 30))
        scores = rng.permuted(np.tile(np.arange(items, dtype=float), (rows, 1)), axis=1)
        right = rng.integers(items, size=rows)
        ranks = (scores > scores[np.arange(rows), right][:, None]).sum(axis=1) + 1
        truth = np.eye(items)[right]
        ours = ranking(ranks)
        assert ours["recall_at_1"] == pytest.approx(top_k_accuracy_score(right, scores, k=1, labels=np.arange(items)))
        assert ours["recall_at_10"] == pytest.approx(top_k_accuracy_score(right, scores, k=10, labels=np.arange(items)))
        assert ours["ndcg_at_10"] == pytest.approx(ndcg_score(truth, scores, k=10))
        assert ours["mrr"] == pytest.approx(label_ranking_average_precision_score(truth, scores))


def test_a_right_item_that_cannot_be_told_counts_as_missed():
    assert ranking(np.array([0, 1])) == {"recall_at_1": 0.5, "recall_at_10": 0.5, "ndcg_at_10": 0.5, "mrr": 0.5}


def test_spearman_is_scipys_with_ties():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    for _ in range(CASES):
        one, other = rng.integers(6, size=(2, int(rng.integers(3, 20)))).astype(float)
        if one.std() and other.std():
            assert spearman(one, other) == pytest.approx(spearmanr(one, other).statistic)
        else:
            assert spearman(one, other) == 0.0
