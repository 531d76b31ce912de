"""A tag for every word: names of persons and places (in the IOB or IOBES scheme), parts of speech.

A word is judged by its first token. Words beyond the longest row count as untagged, so cutting is never free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read, words_of
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import INPUT_IDS, TokenTable, build_table
from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.errors import DataError
from finetune_trainer.tasks import entities
from finetune_trainer.tasks.base import (
    Answer,
    Batch,
    Encoded,
    HeadSpec,
    Piece,
    Predictions,
    Refused,
    attention_mask,
    marked_pieces,
    objects,
    pad,
)
from finetune_trainer.tasks.labels import class_number
from finetune_trainer.tasks.scoring import Kind, Scored, own_loss

_WORDS, _CLASSES = "words", "classes"
OUTSIDE = "O"


@dataclass(frozen=True, slots=True)
class TokenClassification:
    """Cross-entropy over words."""

    tags: tuple[str, ...]
    label_smoothing: float
    pad_id: int = 0
    name: str = "token-classification"
    metric_names: tuple[str, ...] = ("loss", "accuracy", "precision", "recall", "f1")

    @property
    def head(self) -> HeadSpec:
        """A classifier over the tags, named in the model's config."""
        names = {"id2label": dict(enumerate(self.tags)), "label2id": {tag: i for i, tag in enumerate(self.tags)}}
        return HeadSpec("token-classification", {"num_labels": len(self.tags), **names})

    def fingerprint(self) -> Mapping[str, Any]:
        """Tags decide the class numbers."""
        return {"tags": self.tags}

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer, max_length: int) -> Encoded:
        """Tokenise the words; `words` holds 1 + the word's number at its first token, `classes` its tag's number."""
        index = {tag: number for number, tag in enumerate(self.tags)}
        ragged: dict[str, list[list[int]]] = {INPUT_IDS: [], _WORDS: [], _CLASSES: []}
        kept: list[Example] = []
        refused: list[Refused] = []
        found = tokenizer.encode_words([example.parts for example in examples], max_length) if examples else []
        for example, each in zip(examples, found, strict=True):
            words = [0] * len(each.ids)
            for at, word in enumerate(each.word_ids):
                if word is not None and (at == 0 or each.word_ids[at - 1] != word):
                    words[at] = word + 1
            if not any(words):
                refused.append(Refused(example, "no word gives a token"))
                continue
            kept.append(example)
            ragged[INPUT_IDS].append(each.ids)
            ragged[_WORDS].append(words)
            tags = _tags(example)
            ragged[_CLASSES].append([class_number(index, tags[word - 1], example) if word else 0 for word in words])
        count = np.array([[sum(w > 0 for w in words)] for words in ragged[_WORDS]], dtype=np.float32)
        cut = sum(bool(each.overflowing) for each in found)
        return Encoded(build_table(ragged, {"targets": count.reshape(-1, 1)}), kept, refused, cut)

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:  # noqa: ARG002 - nothing is random
        """Return input_ids, attention_mask where needed; `select`, `targets`, `owner` and `words` of each word, [K]."""
        words_BT = pad(table, _WORDS, rows, 0)
        owner, at = words_BT.nonzero(as_tuple=True)
        tensors = {
            INPUT_IDS: pad(table, INPUT_IDS, rows, self.pad_id),
            "select": owner * words_BT.shape[1] + at,
            "targets": pad(table, _CLASSES, rows, 0)[owner, at],
            "owner": owner,
            _WORDS: words_BT[owner, at] - 1,
        }
        mask = attention_mask(table, rows)
        if mask is not None:
            tensors["attention_mask"] = mask
        return Batch(tensors, rows)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:  # noqa: ARG002
        """Words."""
        return float(table.dense["targets"][rows].sum(dtype=np.float64))

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy over the words."""
        return own_loss(self, model, batch)

    @property
    def kind(self) -> Kind:
        """Tags that exclude each other."""
        return "one"

    def scored(self, model: nn.Module, batch: Batch) -> Scored:
        """Return the scores of each word."""
        return Scored(_scores(model, batch), nn.Identity(), {"targets": batch.tensors["targets"]})

    def losses(self, scores_KC: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Return each word's loss."""
        return F.cross_entropy(scores_KC, targets["targets"], reduction="none", label_smoothing=self.label_smoothing)

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return each row's summed `loss`, its `words`, and the class of each as `tags`, -1 without a token."""
        scores_KC = _scores(model, batch)
        losses = F.cross_entropy(scores_KC, batch.tensors["targets"], reduction="none").double().cpu().numpy()
        best, owner = scores_KC.argmax(dim=-1).cpu().numpy(), batch.tensors["owner"].cpu().numpy()
        words = batch.tensors[_WORDS].cpu().numpy()
        rows = len(batch.rows)
        tags: list[Any] = []
        for row in range(rows):
            mine = owner == row
            tags.append(np.full(words[mine].max() + 1, -1))
            tags[-1][words[mine]] = best[mine]
        count = np.bincount(owner, minlength=rows)
        return {"loss": np.bincount(owner, losses, minlength=rows), "words": count, "tags": objects(tags)}

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:
        """Return loss per word, accuracy, and precision, recall and F1.

        They are of whole entities, over all of them, where the tags are in the IOB or IOBES scheme (as seqeval has
        it); else of the tags, averaged over these.
        """
        truth = [_tags(example) for example in examples]
        told = [self._told(found, len(tags)) for found, tags in zip(predictions["tags"], truth, strict=True)]
        loss = float(predictions["loss"].sum() / predictions["words"].sum())
        return {"loss": loss} | entities.judge(truth, told)

    def pieces(self, table: TokenTable, row: int, tokenizer: Tokenizer) -> Sequence[Piece]:
        """Return the words, those with another tag than O apart."""
        ids, words, classes = (table.row(column, row) for column in (INPUT_IDS, _WORDS, _CLASSES))
        # A later token of a word goes with its first.
        last = np.maximum.accumulate(np.where(words > 0, np.arange(len(words)), 0))
        tagged = np.array([words[at] > 0 and self.tags[classes[at]] != OUTSIDE for at in last])
        return marked_pieces(ids, tagged, tokenizer)

    def label_text(self, example: Example) -> str:
        """Return the words with another tag than O."""
        pairs = zip(example.parts, _tags(example), strict=True)
        return ", ".join(f"{word} ({tag})" for word, tag in pairs if tag != OUTSIDE)

    def input_text(self, example: Example) -> str:
        """Return the words."""
        return " ".join(example.parts)

    def ask(self, columns: Columns) -> Read:
        """Read a list of words; any tag does, since its loss is not told."""
        tokens = columns.need("tokens")

        def build(row: Any) -> Example:
            words = words_of(row, tokens)
            return Example(row, parts=words, label=(self.tags[0],) * len(words))

        return build

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:
        """Return `tags`, one for each word, and the `entities` that they make up, none without a scheme."""
        told = [self._told(each, len(row.parts)) for each, row in zip(predictions["tags"], examples, strict=True)]
        return [
            {
                "tags": tags,
                "entities": [
                    {"type": kind, "text": " ".join(example.parts[first : last + 1]), "first": first, "last": last}
                    for kind, first, last in sorted(entities.entities(tags), key=lambda each: each[1])
                ],
            }
            for tags, example in zip(told, examples, strict=True)
        ]

    def kept(self) -> Mapping[str, Any]:
        """Return the tags."""
        return {"tags": list(self.tags)}

    def _told(self, found: Any, count: int) -> list[str]:
        told = [self.tags[number] if number >= 0 else OUTSIDE for number in found]
        return told + [OUTSIDE] * (count - len(told))


def read(columns: Columns) -> Read:
    """Read a list of words and a list of tags."""
    tokens, tags = columns.need("tokens"), columns.need("tags")

    def build(row: Any) -> Example:
        example = Example(row, parts=words_of(row, tokens), label=words_of(row, tags))
        if len(example.parts) != len(_tags(example)):
            row.refuse(
                f"column {tokens!r} holds {len(example.parts)} words, column {tags!r} {len(_tags(example))} tags",
                "Write one tag for each word.",
            )
        return example

    return build


def build(spec: FineTuneJobSpec, splits: Splits, tokenizer: Tokenizer) -> TokenClassification:
    """Find the tags in the training rows.

    Args:
        spec: The manifest's.
        splits: All sets.
        tokenizer: The model's.

    Returns:
        The task.

    Raises:
        DataError: There are fewer than two tags, or a held-out row has one that training never sees.
    """
    known = {tag for example in splits.train for tag in _tags(example)}
    if len(known) < 2:
        raise DataError(
            f"the training rows hold {len(known)} tag ({', '.join(sorted(known))}), at least two are needed",
            remedy="Check that the file is complete and data.fields.tags names the right column.",
        )
    for name in ("validation", "test"):
        for example in splits.named()[name]:
            unseen = sorted(set(_tags(example)) - known)
            if unseen:
                raise DataError(
                    f"{example.place}: the tag {unseen[0]!r} of the {name} rows is not among the training tags "
                    f"({', '.join(sorted(known)[:10])})",
                    remedy="Add training rows with that tag, or correct the spelling.",
                )
    return restore(spec, {"tags": sorted(known)}, tokenizer)


def restore(spec: FineTuneJobSpec, kept: Mapping[str, Any], tokenizer: Tokenizer) -> TokenClassification:
    """Return the task for its tags."""
    return TokenClassification(tuple(kept["tags"]), spec.training.label_smoothing, tokenizer.pad_id)


def _tags(example: Example) -> tuple[str, ...]:
    assert isinstance(example.label, tuple), "internal: read sets a tuple"
    return example.label


def _scores(model: nn.Module, batch: Batch) -> Tensor:
    """Return the scores of each word's first token, [K, C]."""
    return model(**batch.inputs()).logits.flatten(0, 1)[batch.tensors["select"]].float()
