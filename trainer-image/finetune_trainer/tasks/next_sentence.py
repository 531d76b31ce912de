"""BERT's objective (Devlin et al. 2018): hidden tokens, and whether the second part of a text continues the first.

A row of the table is a stretch of a document, with the number of each token's sentence. In every epoch it is cut anew
between two sentences, and in half of the cases the second part is replaced by one of another document. All of it is a
function of seed, epoch and row.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import INPUT_IDS, Array, TokenTable, build_table
from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.errors import ConfigError
from finetune_trainer.objectives import token_losses
from finetune_trainer.tasks import masked_lm
from finetune_trainer.tasks.base import (
    Answer,
    Batch,
    Encoded,
    HeadSpec,
    Piece,
    Predictions,
    Refused,
    padded,
    rows_by_example,
)
from finetune_trainer.tasks.masked_lm import Hiding, Positions
from finetune_trainer.tasks.metrics import perplexity
from finetune_trainer.tasks.token_head import token_predictions, told_tokens

_SENTENCE, _DOCUMENT = "sentence", "document"
_SPECIAL_TOKENS = 3
_END = re.compile(r"(?<=[.!?])\s+|\n+")
CONTINUES, RANDOM = 0, 1

read = masked_lm.read


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two parts of a text as the model reads them, with hidden tokens."""

    ids: Array
    types: Array
    hidden: Positions
    targets: Array
    label: int


@dataclass(frozen=True, slots=True)
class NextSentence:
    """The mean loss of hidden tokens plus the mean loss of pairs."""

    hiding: Hiding
    cls_id: int
    sep_id: int
    label_smoothing: float
    pad_id: int = 0
    name: str = "next-sentence-prediction"
    metric_names: tuple[str, ...] = ("loss", "perplexity", "token_accuracy", "next_accuracy")
    head: HeadSpec = field(default_factory=lambda: HeadSpec("pretraining", {}))

    def fingerprint(self) -> Mapping[str, Any]:
        """Pairs are drawn when batches are made, so the encoding depends on the texts alone."""
        return {}

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer, max_length: int) -> Encoded:
        """Cut documents into stretches of sentences; `document` holds its first row, its rows, and the most tokens."""
        sentences = [[each for each in _END.split(example.text) if each.strip()] for example in examples]
        flat = iter(tokenizer.encode_plain([each for document in sentences for each in document]))
        room = max_length - _SPECIAL_TOKENS
        ragged: dict[str, list[list[int]]] = {INPUT_IDS: [], _SENTENCE: []}
        kept: list[Example] = []
        refused: list[Refused] = []
        documents: list[tuple[int, int, int]] = []
        cut = 0
        for example, parts in zip(examples, sentences, strict=True):
            tokens = [each for each in (next(flat) for _ in parts) if each]
            stretches = _stretches([each[: room // 2] for each in tokens], room)
            cut += any(len(each) > room // 2 for each in tokens)
            if not stretches:
                refused.append(Refused(example, "fewer than two sentences"))
                continue
            documents += [(len(kept), len(stretches), room)] * len(stretches)
            kept += [example] * len(stretches)
            ragged[INPUT_IDS] += [[i for sentence in each for i in sentence] for each in stretches]
            ragged[_SENTENCE] += [[n for n, sentence in enumerate(each) for _ in sentence] for each in stretches]
        dense = np.array(documents, dtype=np.int64).reshape(len(documents), 3)
        return Encoded(build_table(ragged, {_DOCUMENT: dense}), kept, refused, cut)

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:
        """Return the inputs, [B, T]; `select`, `targets`, `owner` of hidden tokens, [K]; `labels` of pairs, [B]."""
        pairs = [self._pair(table, int(row), epoch) for row in rows]
        input_ids, mask = padded([each.ids for each in pairs], self.pad_id)
        width = input_ids.shape[1]
        tensors = {
            INPUT_IDS: input_ids,
            "attention_mask": mask,
            "token_type_ids": padded([each.types for each in pairs], 0)[0],
            "select": torch.from_numpy(np.concatenate([at * width + each.hidden for at, each in enumerate(pairs)])),
            "targets": torch.from_numpy(np.concatenate([each.targets for each in pairs])),
            "owner": torch.from_numpy(np.repeat(np.arange(len(pairs)), [len(each.hidden) for each in pairs])),
            "labels": torch.tensor([each.label for each in pairs]),
        }
        return Batch(tensors, rows)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> Tensor:
        """Hidden tokens, and pairs."""
        hidden = sum(len(self._pair(table, int(row), epoch).hidden) for row in rows)
        return torch.tensor([hidden, len(rows)], dtype=torch.float32)

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy over hidden tokens, and over pairs, [2]."""
        losses_K, _, scores_B2 = _scores(model, batch, self.label_smoothing)
        return torch.stack([losses_K.sum(), F.cross_entropy(scores_B2, batch.tensors["labels"], reduction="sum")])

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return those of masked-lm, and `pair_loss` and whether the pair is `told` rightly."""
        losses_K, right_K, scores_B2 = _scores(model, batch, 0.0)
        labels = batch.tensors["labels"]
        pair_loss = F.cross_entropy(scores_B2, labels, reduction="none")
        told = (scores_B2.argmax(dim=-1) == labels).double()
        pairs = {"pair_loss": pair_loss.cpu().numpy(), "told": told.cpu().numpy()}
        return {**token_predictions(losses_K, right_K, batch), **pairs}

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:  # noqa: ARG002
        """Return the loss of both, perplexity and accuracy of hidden tokens, and the accuracy of pairs."""
        tokens = predictions["tokens"].sum()
        hidden = float(predictions["loss"].sum() / tokens)
        return {
            "loss": hidden + float(predictions["pair_loss"].astype(np.float64).mean()),
            "perplexity": perplexity(hidden),
            "token_accuracy": float(predictions["right"].sum() / tokens),
            "next_accuracy": float(predictions["told"].mean()),
        }

    def ask(self, columns: Columns) -> Read:
        """Read a document."""
        return read(columns)

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:
        """Return those of masked-lm for all pairs of a document, the number of `pairs`, and how many are `told`."""
        documents = rows_by_example(examples)
        found: dict[int, Answer] = {}
        for key, rows in documents.items():
            summed = {name: predictions[name][rows].sum(keepdims=True) for name in ("loss", "tokens", "right", "told")}
            found[key] = {**told_tokens(summed)[0], "pairs": len(rows), "told": int(summed["told"][0])}
        return [found[id(example)] for example in examples]

    def pieces(self, table: TokenTable, row: int, tokenizer: Tokenizer) -> Sequence[Piece]:
        """Return both parts as they are in the first epoch, the second as learned."""
        pair = self._pair(table, row, 0)
        return [Piece(tokenizer.decode(pair.ids[pair.types == part].tolist()), supervised=part == 1) for part in (0, 1)]

    def label_text(self, example: Example) -> str:  # noqa: ARG002
        """There is none beside the text itself."""
        return ""

    def _pair(self, table: TokenTable, row: int, epoch: int | None) -> _Pair:
        rng = self.hiding.generator(epoch, row)
        first, second = _cut(table, row, rng)
        other = _elsewhere(table, row, rng)
        label = CONTINUES
        if other is not None and rng.random() < 0.5:
            room = int(table.dense[_DOCUMENT][row, 2]) - len(first)
            second, label = _cut(table, other, rng)[1][:room], RANDOM
        ids = np.concatenate([[self.cls_id], first, [self.sep_id], second, [self.sep_id]]).astype(np.int64)
        types = np.repeat([0, 1], [len(first) + 2, len(second) + 1])
        candidates = np.concatenate([np.arange(len(first)) + 1, np.arange(len(second)) + len(first) + 2])
        hidden, instead = self.hiding.choose(candidates, rng)
        targets = ids[hidden].copy()
        ids[hidden] = np.where(instead < 0, targets, instead)
        return _Pair(ids, types, hidden, targets, label)


def build(spec: FineTuneJobSpec, splits: Splits, tokenizer: Tokenizer) -> NextSentence:  # noqa: ARG001
    """Make the task for a tokenizer.

    Args:
        spec: The manifest's.
        splits: All sets.
        tokenizer: The model's.

    Returns:
        The task.

    Raises:
        ConfigError: The model has no token that begins or parts texts.
    """
    ids = [tokenizer.id_of(name) for name in ("cls_token", "sep_token")]
    if None in ids:
        raise ConfigError("the model has no cls and sep token", remedy="Use a BERT, or task: masked-lm.")
    cls_id, sep_id = (int(i or 0) for i in ids)
    hiding = masked_lm.hiding_of(spec, tokenizer)
    return NextSentence(hiding, cls_id, sep_id, spec.training.label_smoothing, tokenizer.pad_id)


def _stretches(sentences: Sequence[Sequence[int]], room: int) -> list[list[Sequence[int]]]:
    """Join consecutive sentences while they fit; a last one that stands alone is left out."""
    stretches: list[list[Sequence[int]]] = []
    free = 0
    for each in sentences:
        if not stretches or len(each) > free:
            stretches.append([])
            free = room
        stretches[-1].append(each)
        free -= len(each)
    return [each for each in stretches if len(each) > 1]


def _cut(table: TokenTable, row: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return the tokens before and after a random end of a sentence."""
    sentence = table.row(_SENTENCE, row)
    boundary = int(np.searchsorted(sentence, rng.integers(1, int(sentence[-1]) + 1)))
    ids = table.row(INPUT_IDS, row)
    return ids[:boundary], ids[boundary:]


def _elsewhere(table: TokenTable, row: int, rng: np.random.Generator) -> int | None:
    """Return a random row of another document, None when there is only one."""
    first, count, _ = (int(each) for each in table.dense[_DOCUMENT][row])
    others = len(table) - count
    if others == 0:
        return None
    found = int(rng.integers(others))
    return found + count if found >= first else found


def _scores(model: nn.Module, batch: Batch, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss and rightness of hidden tokens, [K], and the scores of pairs, [B, 2]."""
    whole: Any = model
    found = whole.base_model(**batch.inputs())
    hidden_KH = found.last_hidden_state.flatten(0, 1)[batch.tensors["select"]]
    losses_K, right_K = token_losses(hidden_KH, batch.tensors["targets"], whole.cls.predictions, smoothing)
    return losses_K, right_K, whole.cls.seq_relationship(found.pooler_output).float()
