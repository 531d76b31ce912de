"""One right choice among several, each read together with the question.

Rows may have different numbers of choices: every choice is a sequence of its own, and a row's probabilities are over
its own choices.

Legend: B rows, N choices of all rows, T tokens, C most choices of a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.formats import Row
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read, labels_of, text_of, words_of
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import INPUT_IDS, TokenTable, build_table
from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.objectives import choice_losses
from finetune_trainer.tasks.base import Answer, Batch, Encoded, HeadSpec, Piece, Predictions

_TYPES, _CHOICE = "token_type_ids", "choice"


@dataclass(frozen=True, slots=True)
class MultipleChoice:
    """Cross-entropy over a row's choices."""

    label_smoothing: float
    pad_id: int = 0
    name: str = "multiple-choice"
    metric_names: tuple[str, ...] = ("loss", "accuracy")
    head: HeadSpec = field(default_factory=lambda: HeadSpec("multiple-choice", {}))

    def fingerprint(self) -> Mapping[str, Any]:
        """Nothing beyond the rows decides the encoding."""
        return {}

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer, max_length: int) -> Encoded:
        """Tokenise the question with each choice; `choice` is each token's choice, `labels` the right one."""
        pairs = [(example.text, choice) for example in examples for choice in example.parts]
        found = tokenizer.encode(pairs, max_length) if pairs else []
        ragged: dict[str, list[list[int]]] = {INPUT_IDS: [], _TYPES: [], _CHOICE: []}
        at = cut = 0
        for example in examples:
            mine = found[at : at + len(example.parts)]
            ragged[INPUT_IDS].append([i for each in mine for i in each.ids])
            ragged[_TYPES].append([i for each in mine for i in each.type_ids])
            ragged[_CHOICE].append([number for number, each in enumerate(mine) for _ in each.ids])
            cut += any(each.overflowing for each in mine)
            at += len(example.parts)
        labels = np.array([[int(str(example.label))] for example in examples], dtype=np.int64).reshape(-1, 1)
        return Encoded(build_table(ragged, {"labels": labels}), examples, (), cut)

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:  # noqa: ARG002 - nothing is random
        """Return the inputs, [N, 1, T]; `owner` and `choice` of each sequence, [N]; `labels`, [B]."""
        ids, types, owner, choice = self._sequences(table, rows)
        width = max(map(len, ids))
        input_ids = np.full((len(ids), 1, width), self.pad_id, dtype=np.int64)
        type_ids, mask = np.zeros_like(input_ids), np.zeros_like(input_ids)
        for at, (tokens, kinds) in enumerate(zip(ids, types, strict=True)):
            input_ids[at, 0, : len(tokens)], type_ids[at, 0, : len(tokens)] = tokens, kinds
            mask[at, 0, : len(tokens)] = 1
        tensors = {
            INPUT_IDS: torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(mask),
            "owner": torch.tensor(owner),
            _CHOICE: torch.tensor(choice),
            "labels": torch.from_numpy(np.array(table.dense["labels"][rows][:, 0])),
        }
        if type_ids.any():
            tensors[_TYPES] = torch.from_numpy(type_ids)
        return Batch(tensors, rows)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:  # noqa: ARG002
        """Rows."""
        return float(len(rows))

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy over the choices."""
        return choice_losses(_scores(model, batch), batch.tensors["labels"], self.label_smoothing).sum()

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return each row's `loss`, the choice `told`, its `chance` and the right one, `labels`."""
        scores_BC = _scores(model, batch)
        found = {
            "loss": choice_losses(scores_BC, batch.tensors["labels"], 0.0),
            "told": scores_BC.argmax(dim=-1),
            "chance": scores_BC.softmax(dim=-1).max(dim=-1).values,
            "labels": batch.tensors["labels"],
        }
        return {name: each.cpu().numpy() for name, each in found.items()}

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:  # noqa: ARG002
        """Return loss and accuracy."""
        loss = float(predictions["loss"].astype(np.float64).mean())
        return {"loss": loss, "accuracy": float((predictions["told"] == predictions["labels"]).mean())}

    def pieces(self, table: TokenTable, row: int, tokenizer: Tokenizer) -> Sequence[Piece]:
        """Return the question with each choice, the right one as learned."""
        ids, _, _, choice = self._sequences(table, np.array([row]))
        right = int(table.dense["labels"][row, 0])
        return [
            Piece(tokenizer.decode(part), supervised=number == right) for part, number in zip(ids, choice, strict=True)
        ]

    def input_text(self, example: Example) -> str:
        """Return the question, and the choices with their numbers."""
        return "\n".join([example.text, *(f"{number}: {choice}" for number, choice in enumerate(example.parts))])

    def label_text(self, example: Example) -> str:
        """Return the right choice."""
        return example.parts[int(str(example.label))]

    def ask(self, columns: Columns) -> Read:
        """Read a question and its choices."""
        question, choices = columns.need("question"), columns.need("choices")
        return lambda row: Example(row, text=text_of(row, question), parts=_choices_of(row, choices), label="0")

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:
        """Return the number of the best `choice` from 0, its `text`, and its probability as `score`."""
        told = zip(predictions["told"].tolist(), predictions["chance"].tolist(), examples, strict=True)
        return [{"choice": best, "text": example.parts[best], "score": chance} for best, chance, example in told]

    def _sequences(
        self, table: TokenTable, rows: Rows
    ) -> tuple[list[list[int]], list[list[int]], list[int], list[int]]:
        """Return ids and segment numbers of every choice, the place of its row, and its number in it."""
        ids: list[list[int]] = []
        types: list[list[int]] = []
        owner: list[int] = []
        choice: list[int] = []
        for at, row in enumerate(rows):
            numbers = table.row(_CHOICE, int(row))
            for number in range(int(numbers.max()) + 1):
                mine = numbers == number
                ids.append(table.row(INPUT_IDS, int(row))[mine].tolist())
                types.append(table.row(_TYPES, int(row))[mine].tolist())
                owner.append(at)
                choice.append(number)
        return ids, types, owner, choice


def read(columns: Columns) -> Read:
    """Read a question, a list of choices, and the number of the right one from 0, or its text."""
    question, choices, label = columns.need("question"), columns.need("choices"), columns.need("label")

    def build(row: Row) -> Example:
        parts = _choices_of(row, choices)
        right = labels_of(row, label)
        number = parts.index(right) if isinstance(right, str) and right in parts else right
        if not str(number).isdecimal() or not int(str(number)) < len(parts):
            row.refuse(
                f"column {label!r} holds {right!r}, column {choices!r} {len(parts)} choices",
                "Write the right one's number from 0, or its text.",
            )
        return Example(row, text=text_of(row, question), parts=parts, label=str(number))

    return build


def build(spec: FineTuneJobSpec, splits: Splits, tokenizer: Tokenizer) -> MultipleChoice:  # noqa: ARG001
    """Nothing is learned from the rows."""
    return MultipleChoice(spec.training.label_smoothing, tokenizer.pad_id)


def _choices_of(row: Row, column: str) -> tuple[str, ...]:
    parts = words_of(row, column)
    if len(parts) < 2:
        row.refuse(f"column {column!r} holds {len(parts)} choices", "Write at least two, or delete the row.")
    return parts


def _scores(model: nn.Module, batch: Batch) -> Tensor:
    """Return each choice's score, [B, C]; minus infinity where a row has fewer."""
    logits_N = model(**batch.inputs()).logits[:, 0].float()
    owner, choice = batch.tensors["owner"], batch.tensors[_CHOICE]
    scores_BC = logits_N.new_full((len(batch.rows), int(choice.max()) + 1), -torch.inf)
    return scores_BC.index_put((owner, choice), logits_N)
