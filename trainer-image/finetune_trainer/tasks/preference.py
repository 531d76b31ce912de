"""The better of two completions: direct preference optimisation (DPO, Rafailov et al. 2023).

A table row is the better sequence followed by the worse. The loss is -log sigmoid of beta times how much more the model
prefers the better one than the untrained model does, whose log-probabilities are computed once, before training.

Legend: B rows, T tokens, K learned tokens of both sequences of all rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.chat import messages_of
from finetune_trainer.data.formats import Row
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read, text_of
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import INPUT_IDS, TokenTable, build_table
from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.tasks.base import (
    Answer,
    Batch,
    Encoded,
    HeadSpec,
    Piece,
    Predictions,
    Refused,
    marked_pieces,
    padded,
)
from finetune_trainer.tasks.causal_lm import SUPERVISED, tokenise
from finetune_trainer.tasks.token_head import TokenHead

BETA = 0.1
_WORSE, _REFERENCE = "worse", "reference"


@dataclass(frozen=True)
class Preference:
    """The loss of DPO, with conservative labels when smoothed."""

    label_smoothing: float
    pad_id: int = 0
    name: str = "preference"
    metric_names: tuple[str, ...] = ("loss", "accuracy", "margin")
    head: HeadSpec = field(default_factory=lambda: HeadSpec("causal-lm", {"use_cache": False}))
    scorer: TokenHead = field(default_factory=lambda: TokenHead(("lm_head", "embed_out"), {"use_cache": False}))

    def fingerprint(self) -> Mapping[str, Any]:
        """Nothing beyond the rows decides the encoding."""
        return {}

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer, max_length: int) -> Encoded:
        """Tokenise both sequences; `supervised` is 1 where a token is learned, `worse` 1 in the worse sequence."""
        better = tokenise(examples, tokenizer)
        worse = tokenise([example.rejected or example for example in examples], tokenizer)
        ragged: dict[str, list[list[int]]] = {INPUT_IDS: [], SUPERVISED: [], _WORSE: []}
        kept: list[Example] = []
        refused: list[Refused] = []
        cut = 0
        for example, *pair in zip(examples, better, worse, strict=True):
            # Position 0 has nothing before it that could predict it.
            masks = [[0, *mask[1:max_length]] for _, mask in pair]
            if not all(any(mask) for mask in masks):
                refused.append(Refused(example, f"a completion without a token within the first {max_length}"))
                continue
            ids = [row[:max_length] for row, _ in pair]
            cut += any(len(row) > max_length for row, _ in pair)
            kept.append(example)
            ragged[INPUT_IDS].append(ids[0] + ids[1])
            ragged[SUPERVISED].append(masks[0] + masks[1])
            ragged[_WORSE].append([0] * len(ids[0]) + [1] * len(ids[1]))
        return Encoded(build_table(ragged, {}), kept, refused, cut)

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:  # noqa: ARG002 - nothing is random
        """Return input_ids, [2B, T]: better sequences, then worse; `select`, `targets`, `owner`, [K]; `reference`.

        `owner` is a sequence's number; `reference` is [B, 2]. Padding stands on the right, where nothing looks.
        """
        ids, learned, worse = (
            [table.row(column, int(row)) for row in rows] for column in (INPUT_IDS, SUPERVISED, _WORSE)
        )
        sides = [[mark == part for mark in worse] for part in (0, 1)]
        sequences = [row[side] for marks in sides for row, side in zip(ids, marks, strict=True)]
        masks = [row[side] for marks in sides for row, side in zip(learned, marks, strict=True)]
        input_ids, _ = padded(sequences, self.pad_id)
        places = [np.flatnonzero(mask) for mask in masks]
        width = input_ids.shape[1]
        targets = [row[place].astype(np.int64) for row, place in zip(sequences, places, strict=True)]
        tensors = {
            INPUT_IDS: input_ids,
            "select": torch.from_numpy(np.concatenate([at * width + place - 1 for at, place in enumerate(places)])),
            "targets": torch.from_numpy(np.concatenate(targets)),
            "owner": torch.from_numpy(np.repeat(np.arange(len(places)), [len(place) for place in places])),
        }
        if _REFERENCE in table.dense:
            tensors[_REFERENCE] = torch.from_numpy(np.array(table.dense[_REFERENCE][rows], dtype=np.float32))
        return Batch(tensors, rows)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:  # noqa: ARG002
        """Rows."""
        return float(len(rows))

    def refer(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return the log-probabilities of both completions, [B, 2]."""
        return {_REFERENCE: self._log_probabilities(model, batch).cpu().numpy()}

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of DPO; without a reference both completions were as likely before."""
        return self._losses(self._margins(model, batch), self.label_smoothing).sum()

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return each row's `loss`, and its `margin`: beta times how much more it prefers the better completion."""
        margin_B = self._margins(model, batch)
        return {"loss": self._losses(margin_B, 0.0).cpu().numpy(), "margin": margin_B.cpu().numpy()}

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:  # noqa: ARG002
        """Return the loss, the part of rows that prefer the better completion more than before, and the mean margin."""
        margin = predictions["margin"].astype(np.float64)
        loss = float(predictions["loss"].astype(np.float64).mean())
        return {"loss": loss, "accuracy": float((margin > 0).mean()), "margin": float(margin.mean())}

    def ask(self, columns: Columns) -> Read:
        """Read a prompt with two completions: which of them is preferred is the answer."""
        return read(columns)

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:  # noqa: ARG002
        """Return which completion is `preferred` more than before training, and the `margin`."""
        return [
            {"preferred": "chosen" if margin > 0 else "rejected", "margin": margin}
            for margin in predictions["margin"].tolist()
        ]

    def pieces(self, table: TokenTable, row: int, tokenizer: Tokenizer) -> Sequence[Piece]:
        """Return both sequences, their completions apart."""
        return marked_pieces(table.row(INPUT_IDS, row), table.row(SUPERVISED, row), tokenizer)

    def label_text(self, example: Example) -> str:
        """Return the better completion."""
        return example.messages[-1]["content"] if example.messages else example.completion or ""

    def _log_probabilities(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the sum over the learned tokens of both sequences, [B, 2]."""
        losses_K, _ = self.scorer.losses(model, batch, 0.0)
        total = losses_K.new_zeros(2 * len(batch.rows)).index_add(0, batch.tensors["owner"], -losses_K)
        return total.unflatten(0, (2, -1)).T

    def _margins(self, model: nn.Module, batch: Batch) -> Tensor:
        gain_B2 = self._log_probabilities(model, batch)
        if _REFERENCE in batch.tensors:
            gain_B2 = gain_B2 - batch.tensors[_REFERENCE]
        return BETA * (gain_B2[:, 0] - gain_B2[:, 1])

    def _losses(self, margin_B: Tensor, smoothing: float) -> Tensor:
        return -(1.0 - smoothing) * F.logsigmoid(margin_B) - smoothing * F.logsigmoid(-margin_B)


def read(columns: Columns) -> Read:
    """Read a prompt with two completions, or two conversations that may begin with the same messages."""
    prompt, chosen, rejected = columns.find("prompt"), columns.need("chosen"), columns.need("rejected")

    def one(row: Row, column: str) -> Example:
        if isinstance(row.values.get(column), list):
            return Example(row, messages=messages_of(row, column, prompt))
        return Example(row, text=text_of(row, prompt) if prompt else "", completion=text_of(row, column))

    def build(row: Row) -> Example:
        better, worse = one(row, chosen), one(row, rejected)
        if (better.messages, better.completion) == (worse.messages, worse.completion):
            row.refuse(f"columns {chosen!r} and {rejected!r} hold the same", "Delete the row.")
        return Example(row, better.text, messages=better.messages, completion=better.completion, rejected=worse)

    return build


def build(spec: FineTuneJobSpec, splits: Splits, tokenizer: Tokenizer) -> Preference:  # noqa: ARG001
    """Nothing is learned from the rows."""
    return Preference(spec.training.label_smoothing, tokenizer.pad_id)
