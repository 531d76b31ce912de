"""A text from a text, by a model with an encoder and a decoder: what translation and summarization share.

A table row is the source followed by the target. While judging, texts are written by beam search.

Legend: B rows, S source tokens, T target tokens, K target tokens of all rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read, text_of
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import INPUT_IDS, Array, TokenTable, build_table
from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.errors import ConfigError
from finetune_trainer.tasks.base import (
    Answer,
    Batch,
    Encoded,
    HeadSpec,
    Piece,
    Predictions,
    marked_pieces,
    objects,
    padded,
)
from finetune_trainer.tasks.token_head import TokenHead, token_predictions

BEAMS = 4
_TARGET = "target"


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the tasks: the roles of its columns, how written texts are compared, the names of what comes out."""

    name: str
    source: str
    target: str
    measures: tuple[str, ...]
    compare: Callable[[Sequence[str], Sequence[str]], dict[str, float]]

    def read(self, columns: Columns) -> Read:
        """Read two texts."""
        text, written = columns.need(self.source), columns.need(self.target)
        return lambda row: Example(row, text=text_of(row, text), completion=text_of(row, written))


@dataclass(frozen=True)
class Seq2Seq:
    """Cross-entropy over the target's tokens; what the model writes is compared with the target."""

    kind: Kind
    tokenizer: Tokenizer
    start_id: int
    longest: int
    """Most tokens that are written."""
    label_smoothing: float
    head: HeadSpec = field(default_factory=lambda: HeadSpec("seq2seq", {}))
    scorer: TokenHead = field(default_factory=lambda: TokenHead(("lm_head",), {"use_cache": False}))

    @property
    def name(self) -> str:
        """Key of the registry."""
        return self.kind.name

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The loss, and what the texts are judged by."""
        return ("loss", *self.kind.measures)

    def fingerprint(self) -> Mapping[str, Any]:
        """Nothing beyond the texts decides the encoding."""
        return {}

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer, max_length: int) -> Encoded:
        """Tokenise sources and targets, each with its special tokens; `target` is 1 where the target is."""
        sources = tokenizer.encode([each.text for each in examples], max_length) if examples else []
        targets = tokenizer.encode([each.completion or "" for each in examples], max_length) if examples else []
        pairs = list(zip(sources, targets, strict=True))
        ragged = {
            INPUT_IDS: [source.ids + target.ids for source, target in pairs],
            _TARGET: [[0] * len(source) + [1] * len(target) for source, target in pairs],
        }
        count = np.array([[len(target)] for target in targets], dtype=np.float32).reshape(len(targets), 1)
        cut = sum(bool(source.overflowing or target.overflowing) for source, target in pairs)
        return Encoded(build_table(ragged, {"targets": count}), examples, (), cut)

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:  # noqa: ARG002 - nothing is random
        """Return the inputs of both halves; the flat positions `select` predict `targets` of rows `owner`, all [K].

        Padding stands on the right, where the decoder never looks back from a token.
        """
        ids, marks = ([table.row(column, int(row)) for row in rows] for column in (INPUT_IDS, _TARGET))
        sources = [row[mark == 0] for row, mark in zip(ids, marks, strict=True)]
        targets = [row[mark == 1].astype(np.int64) for row, mark in zip(ids, marks, strict=True)]
        input_ids, mask = padded(sources, self.tokenizer.pad_id)
        tensors = {INPUT_IDS: input_ids, **decoder_side(targets, self.start_id, self.tokenizer.pad_id)}
        if not bool(mask.all()):
            tensors["attention_mask"] = mask
        return Batch(tensors, rows)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:  # noqa: ARG002
        """Target tokens."""
        return float(table.dense["targets"][rows].sum(dtype=np.float64))

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy over the target's tokens."""
        return self.scorer.losses(model, batch, self.label_smoothing)[0].sum()

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return each row's summed `loss`, its target `tokens`, how many are `right`, and the `text` written for it."""
        losses_K, right_K = self.scorer.losses(model, batch, 0.0)
        return {**token_predictions(losses_K, right_K, batch), "text": objects(self._write(model, batch))}

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:
        """Return the loss per target token, and the texts' metrics."""
        loss = float(predictions["loss"].sum() / predictions["tokens"].sum())
        right = [example.completion or "" for example in examples]
        return {"loss": loss} | self.kind.compare(list(predictions["text"]), right)

    def ask(self, columns: Columns) -> Read:
        """Read a source."""
        source = columns.need(self.kind.source)
        return lambda row: Example(row, text=text_of(row, source), completion="")

    def respond(self, model: nn.Module, rows: Encoded, which: Rows) -> Predictions:
        """Return the `text` written for each row: without a target there is nothing else."""
        device = next(model.parameters()).device
        return {"text": objects(self._write(model, self.collate(rows.table, which, None).to(device)))}

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:  # noqa: ARG002
        """Return the `text`."""
        return [{"text": text} for text in predictions["text"]]

    def kept(self) -> Mapping[str, Any]:
        """Return how long a text may be."""
        return {"longest": self.longest}

    def pieces(self, table: TokenTable, row: int, tokenizer: Tokenizer) -> Sequence[Piece]:
        """Return the source, and the target as learned."""
        return marked_pieces(table.row(INPUT_IDS, row), table.row(_TARGET, row), tokenizer)

    def label_text(self, example: Example) -> str:
        """Return the target."""
        return example.completion or ""

    def _write(self, model: nn.Module, batch: Batch) -> list[str]:
        generator: Any = model
        positions = getattr(generator.config, "max_position_embeddings", None)
        ids_BT = generator.generate(
            batch.tensors[INPUT_IDS],
            attention_mask=batch.tensors.get("attention_mask", torch.ones_like(batch.tensors[INPUT_IDS])),
            num_beams=BEAMS,
            do_sample=False,
            max_new_tokens=min(self.longest, positions - 1) if positions else self.longest,
        )
        return [self.tokenizer.decode(row, special=False).strip() for row in ids_BT.tolist()]


def decoder_side(targets: Sequence[Array], start_id: int, pad_id: int) -> dict[str, Tensor]:
    """Return what a decoder reads and predicts.

    Args:
        targets: Tokens of each row, int64.
        start_id: What a decoder begins with.
        pad_id: Stands behind a row's end.

    Returns:
        `decoder_input_ids` [B, T]; its flat positions `select` predict `targets` of rows `owner`, all [K].
    """
    decoder_ids, _ = padded([np.concatenate([[start_id], target[:-1]]) for target in targets], pad_id)
    owner = np.repeat(np.arange(len(targets)), [len(target) for target in targets])
    at = np.concatenate([np.arange(len(target)) for target in targets])
    return {
        "decoder_input_ids": decoder_ids,
        "select": torch.from_numpy(owner * decoder_ids.shape[1] + at),
        "targets": torch.from_numpy(np.concatenate(targets)),
        "owner": torch.from_numpy(owner),
    }


def build(kind: Kind, spec: FineTuneJobSpec, splits: Splits, tokenizer: Tokenizer) -> Seq2Seq:
    """Make the task for a tokenizer.

    Args:
        kind: Which of the tasks.
        spec: The manifest's.
        splits: All sets; no text is written that is longer than the longest to learn.
        tokenizer: The model's.

    Returns:
        The task.

    Raises:
        ConfigError: The model has no decoder that reads an encoder.
    """
    if tokenizer.decoder_start_id is None:
        raise ConfigError(
            f"{kind.name} needs a model with an encoder and a decoder, "
            "and this one does not say what a decoder begins with",
            remedy="Choose a BART, T5, Marian or similar model, or task: causal-lm.",
        )
    longest = max(map(len, tokenizer.encode([each.completion or "" for each in splits.train], spec.data.max_length)))
    return restore(kind, spec, {"longest": longest}, tokenizer)


def restore(kind: Kind, spec: FineTuneJobSpec, kept: Mapping[str, Any], tokenizer: Tokenizer) -> Seq2Seq:
    """Return the task for the length of its texts."""
    assert tokenizer.decoder_start_id is not None, "internal: an artifact without what its decoder begins with"
    return Seq2Seq(kind, tokenizer, tokenizer.decoder_start_id, kept["longest"], spec.training.label_smoothing)
