"""Vectors that are close where texts mean the same.

From pairs alone: among the second texts of all rows of a step, each first text must find its own (in-batch negatives,
Henderson et al. 2017). From pairs with a score: the cosine of a pair is to be its score, scaled to 0 to 1. A text's
vector is the mean of its tokens' last hidden states, of length one.

Legend: B rows, N rows of a step, T tokens, H hidden size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.formats import Row
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read, number_of, text_of
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import INPUT_IDS, Array, TokenTable, build_table
from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.errors import DataError
from finetune_trainer.tasks import metrics
from finetune_trainer.tasks.base import EVERYONE, PLACE, Answer, Batch, Encoded, HeadSpec, Piece, Predictions, padded

SCALE = 20.0
"""Cosines are multiplied by this before the softmax: between -1 and 1 they could not single one out."""
_SECOND, _SCORE = "second", "score"
_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Embedding:
    """Cross-entropy over the second texts of the step; squared error of the cosine when pairs have scores."""

    scores: tuple[float, float] | None
    """Lowest and highest score of the training rows; None for pairs without."""
    label_smoothing: float
    pad_id: int = 0
    name: str = "embedding"
    head: HeadSpec = field(default_factory=lambda: HeadSpec("encoder", {}))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Those of scores, or of finding the right text."""
        found = ("spearman", "pearson") if self.scores else ("recall_at_1", "recall_at_10", "ndcg_at_10", "mrr")
        return ("loss", *found)

    def fingerprint(self) -> Mapping[str, Any]:
        """The range of scores decides their column."""
        return {"scores": self.scores}

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer, max_length: int) -> Encoded:
        """Tokenise both texts; `second` is 1 where the second is, `score` between 0 and 1."""
        texts = [each for example in examples for each in (example.text, example.pair or "")]
        found = tokenizer.encode(texts, max_length) if texts else []
        pairs = list(zip(found[::2], found[1::2], strict=True))
        ragged = {
            INPUT_IDS: [one.ids + two.ids for one, two in pairs],
            _SECOND: [[0] * len(one) + [1] * len(two) for one, two in pairs],
        }
        low, high = self.scores or (0.0, 1.0)
        scores = [[(float(str(each.label)) - low) / (high - low) if self.scores else 1.0] for each in examples]
        cut = sum(bool(one.overflowing or two.overflowing) for one, two in pairs)
        dense = {_SCORE: np.array(scores, dtype=np.float32).reshape(-1, 1)}
        return Encoded(build_table(ragged, dense), examples, (), cut)

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:  # noqa: ARG002 - nothing is random
        """Return input_ids and attention_mask, [2B, T]: first texts, then second ones; `score`, [B]."""
        ids, marks = ([table.row(column, int(row)) for row in rows] for column in (INPUT_IDS, _SECOND))
        texts = [row[mark == part] for part in (0, 1) for row, mark in zip(ids, marks, strict=True)]
        input_ids, mask = padded(texts, self.pad_id)
        score = torch.from_numpy(np.array(table.dense[_SCORE][rows][:, 0]))
        return Batch({INPUT_IDS: input_ids, "attention_mask": mask, _SCORE: score}, rows)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:  # noqa: ARG002
        """Rows."""
        return float(len(rows))

    def embed(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the vectors of both texts, [B, 2, H]."""
        hidden_2BTH = model(**batch.inputs()).last_hidden_state.float()
        weight_2BT1 = batch.tensors["attention_mask"][:, :, None].float()
        mean_2BH = (hidden_2BTH * weight_2BT1).sum(dim=1) / weight_2BT1.sum(dim=1)
        return F.normalize(mean_2BH, dim=-1).unflatten(0, (2, -1)).transpose(0, 1)

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of the batch's rows among everyone; its gradient is that of everyone's loss."""
        vectors_B2H = self.embed(model, batch)
        if self.scores:
            return (_cosines(vectors_B2H) - batch.tensors[_SCORE]).square().sum()
        everyone_N2H, place_B = vectors_B2H, torch.arange(len(batch.rows), device=vectors_B2H.device)
        if EVERYONE in batch.tensors:
            place_B = batch.tensors[PLACE]
            everyone_N2H = batch.tensors[EVERYONE].index_copy(0, place_B, vectors_B2H)
        scores_NN = SCALE * everyone_N2H[:, 0] @ everyone_N2H[:, 1].T
        right_N = torch.arange(len(scores_NN), device=scores_NN.device)
        losses_N = F.cross_entropy(scores_NN, right_N, reduction="none", label_smoothing=self.label_smoothing)
        own = losses_N[place_B].sum()
        # Other rows have these vectors among their negatives: their losses move them, and are counted where they are.
        others = losses_N.sum() - own
        return own + others - others.detach()

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return the vectors `first` and `second`, [B, H], and the `score`."""
        vectors_B2H = self.embed(model, batch)
        found = {"first": vectors_B2H[:, 0], "second": vectors_B2H[:, 1], _SCORE: batch.tensors[_SCORE]}
        return {name: each.cpu().numpy() for name, each in found.items()}

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:  # noqa: ARG002
        """Return the loss, and how cosines follow scores, or how high the right text stands among all of the set.

        The loss of pairs without scores is among all texts of the set, more than in a step of training.
        """
        first, second = predictions["first"], predictions["second"]
        if self.scores:
            told, truth = (first * second).sum(axis=1), predictions[_SCORE]
            loss = float(np.square(told.astype(np.float64) - truth).mean())
            pearson = metrics.regression(told, truth)["pearson"]
            return {"loss": loss, "spearman": metrics.spearman(told, truth), "pearson": pearson}
        losses, ranks = _search(first, second)
        return {"loss": float(losses.mean())} | metrics.ranking(ranks)

    def ask(self, columns: Columns) -> Read:
        """Read a text, and a second one where there is one."""
        text, pair = columns.need("text"), columns.find("textPair")
        low = self.scores[0] if self.scores else None
        return lambda row: Example(row, text=text_of(row, text), pair=text_of(row, pair) if pair else None, label=low)

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:
        """Return the text's `vector`; for a pair also `pairVector`, and their cosine as `score`."""
        told: list[Answer] = []
        for first, second, example in zip(predictions["first"], predictions["second"], examples, strict=True):
            answer: dict[str, Any] = {"vector": first.tolist()}
            if example.pair is not None:
                answer |= {"pairVector": second.tolist(), "score": float((first * second).sum())}
            told.append(answer)
        return told

    def kept(self) -> Mapping[str, Any]:
        """Return the range of scores."""
        return {"scores": self.scores}

    def pieces(self, table: TokenTable, row: int, tokenizer: Tokenizer) -> Sequence[Piece]:
        """Return both texts, the second as learned."""
        ids, mark = table.row(INPUT_IDS, row), table.row(_SECOND, row)
        return [Piece(tokenizer.decode(ids[mark == part].tolist()), supervised=part == 1) for part in (0, 1)]

    def label_text(self, example: Example) -> str:
        """Return the score, else the second text."""
        return f"{example.label}" if self.scores else example.pair or ""


def read(columns: Columns) -> Read:
    """Read a pair of texts, and a score where there is one."""
    text, pair, label = columns.need("text"), columns.need("textPair"), columns.find("label")

    def build(row: Row) -> Example:
        score = number_of(row, label) if label else None
        return Example(row, text=text_of(row, text), pair=text_of(row, pair), label=score)

    return build


def build(spec: FineTuneJobSpec, splits: Splits, tokenizer: Tokenizer) -> Embedding:
    """Find the range of the scores.

    Args:
        spec: The manifest's.
        splits: All sets.
        tokenizer: The model's.

    Returns:
        The task.

    Raises:
        DataError: All scores are equal.
    """
    scores = [float(str(example.label)) for example in splits.train if example.label is not None]
    found = (min(scores), max(scores)) if scores else None
    if found and found[0] == found[1]:
        raise DataError(
            f"every training row has the score {found[0]:g}",
            remedy="Leave the column out when all pairs belong together: data.fields names text and textPair.",
        )
    return restore(spec, {"scores": found}, tokenizer)


def restore(spec: FineTuneJobSpec, kept: Mapping[str, Any], tokenizer: Tokenizer) -> Embedding:
    """Return the task for its range of scores."""
    found = kept["scores"]
    return Embedding(
        (float(found[0]), float(found[1])) if found else None, spec.training.label_smoothing, tokenizer.pad_id
    )


def _cosines(vectors_B2H: Tensor) -> Tensor:
    return (vectors_B2H[:, 0] * vectors_B2H[:, 1]).sum(dim=-1)


def _search(first: Array, second: Array) -> tuple[Array, Array]:
    """Return the loss of each first text among all second ones, and the rank of its own from 1, each [N]."""
    losses: list[Array] = []
    ranks: list[Array] = []
    for start in range(0, len(first), _CHUNK):
        scores = SCALE * first[start : start + _CHUNK].astype(np.float64) @ second.T.astype(np.float64)
        right = scores[np.arange(len(scores)), np.arange(len(scores)) + start]
        highest = scores.max(axis=1)
        losses.append(np.log(np.exp(scores - highest[:, None]).sum(axis=1)) + highest - right)
        ranks.append((scores > right[:, None]).sum(axis=1) + 1)
    return np.concatenate(losses), np.concatenate(ranks)
