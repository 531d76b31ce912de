"""The next item of a history: products bought, films seen, packages installed together.

A causal transformer over items instead of words (SASRec, Kang and McAuley 2018), trained from nothing: every item of a
history is predicted from those before it. A model is judged by where it ranks a history's last item among all items
that the history does not hold. The items are named in the model's config (`id2label`).

Legend: B rows, T items of a history, V items.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.formats import Row
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read, words_of
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import INPUT_IDS, TokenTable, build_table
from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.errors import DataError
from finetune_trainer.tasks.base import Answer, Batch, Encoded, HeadSpec, Piece, Predictions, Refused, padded
from finetune_trainer.tasks.metrics import ranking
from finetune_trainer.tasks.token_head import TokenHead

TOLD = 10
"""How many items an answer names."""
NOTHING = 0
"""The id that pads; items begin at 1."""


@dataclass(frozen=True)
class Recommendation:
    """Cross-entropy over the items of histories."""

    items: tuple[str, ...]
    label_smoothing: float
    name: str = "recommendation"
    metric_names: tuple[str, ...] = ("loss", "recall_at_1", "recall_at_10", "ndcg_at_10", "mrr")
    scorer: TokenHead = field(default_factory=lambda: TokenHead(("lm_head", "embed_out", "cls"), {"use_cache": False}))

    @property
    def head(self) -> HeadSpec:
        """One output per item."""
        names: dict[int, str] = {NOTHING: "", **dict(enumerate(self.items, start=1))}
        ids = {"pad_token_id": NOTHING, "bos_token_id": None, "eos_token_id": None}
        labels = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
        settings = {"vocab_size": len(names), "is_decoder": True, "use_cache": False}
        return HeadSpec("causal-lm", {**settings, **ids, **labels})

    def fingerprint(self) -> Mapping[str, Any]:
        """Items decide the numbers."""
        return {"items": self.items}

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer, max_length: int) -> Encoded:  # noqa: ARG002
        """Number the items, the last `max_length` of them; `target` is the last one, 0 when training never sees it."""
        number = {name: at for at, name in enumerate(self.items, start=1)}
        ids: list[list[int]] = []
        targets: list[int] = []
        kept: list[Example] = []
        refused: list[Refused] = []
        for example in examples:
            history = [number[name] for name in example.parts[:-1] if name in number]
            if not history:
                refused.append(Refused(example, "training sees no item of the history"))
                continue
            targets.append(number.get(example.parts[-1], NOTHING))
            ids.append(([*history, targets[-1]] if targets[-1] else history)[-max_length:])
            kept.append(example)
        cut = sum(len(example.parts) > max_length for example in kept)
        dense = np.array(targets, dtype=np.int64).reshape(-1, 1)
        return Encoded(build_table({INPUT_IDS: ids}, {"target": dense}), kept, refused, cut)

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:  # noqa: ARG002 - nothing is random
        """Return input_ids, [B, T]; `select`, `targets`, `owner` of items but the first, [K]; `target`, `last`, [B].

        `last` is the flat position that predicts the target. Padding stands on the right, where nothing looks.
        """
        ids = [table.row(INPUT_IDS, int(row)).astype(np.int64) for row in rows]
        input_ids, _ = padded(ids, NOTHING)
        width = input_ids.shape[1]
        target = np.array(table.dense["target"][rows][:, 0])
        last = [
            at * width + len(each) - 1 - int(known > 0)
            for at, (each, known) in enumerate(zip(ids, target, strict=True))
        ]
        tensors = {
            INPUT_IDS: input_ids,
            "select": torch.from_numpy(
                np.concatenate([at * width + np.arange(len(each) - 1) for at, each in enumerate(ids)])
            ),
            "targets": torch.from_numpy(np.concatenate([each[1:] for each in ids])),
            "owner": torch.from_numpy(np.repeat(np.arange(len(ids)), [len(each) - 1 for each in ids])),
            "target": torch.from_numpy(target),
            "last": torch.tensor(last),
        }
        return Batch(tensors, rows)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:  # noqa: ARG002
        """Items with others before them."""
        return float((table.lengths[rows] - 1).sum())

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy over the items with others before them."""
        return self.scorer.losses(model, batch, self.label_smoothing)[0].sum()

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return each row's summed `loss`, its predicted `items`, its last one's `rank` from 1, 0 if unknown.

        `top` are the numbers of the best items that the history does not hold, [B, N], `chances` their probabilities.
        """
        losses_K, _ = self.scorer.losses(model, batch, 0.0)
        owner = batch.tensors["owner"].cpu().numpy()
        rows = len(batch.rows)
        return {
            "loss": np.bincount(owner, losses_K.double().cpu().numpy(), minlength=rows),
            "items": np.bincount(owner, minlength=rows),
            **{name: each.cpu().numpy() for name, each in self._placed(model, batch).items()},
        }

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:  # noqa: ARG002
        """Return the loss per item, recall and NDCG among the first ten, and the mean reciprocal rank."""
        loss = float(predictions["loss"].sum() / max(1, predictions["items"].sum()))
        return {"loss": loss} | ranking(predictions["rank"])

    def pieces(self, table: TokenTable, row: int, tokenizer: Tokenizer) -> Sequence[Piece]:  # noqa: ARG002
        """Return the items."""
        return [Piece(f"{self.items[number - 1]} ", at > 0) for at, number in enumerate(table.row(INPUT_IDS, row))]

    def input_text(self, example: Example) -> str:
        """Return the history."""
        return ", ".join(example.parts[:-1])

    def label_text(self, example: Example) -> str:
        """Return the last item."""
        return example.parts[-1]

    def ask(self, columns: Columns) -> Read:
        """Read a history; the item after its last one is to be found."""
        items = columns.need("items")
        return lambda row: Example(row, parts=(*words_of(row, items), ""))

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:  # noqa: ARG002
        """Return the `ranking` of what comes next: `item` and `score`, its probability, best first."""
        return [
            {
                "ranking": [
                    {"item": self.items[number - 1], "score": chance}
                    for number, chance in zip(numbers, chances, strict=True)
                    if chance > 0
                ]
            }
            for numbers, chances in zip(predictions["top"].tolist(), predictions["chances"].tolist(), strict=True)
        ]

    def kept(self) -> Mapping[str, Any]:
        """Return the items."""
        return {"items": list(self.items)}

    def _placed(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        target, rows = batch.tensors["target"], len(batch.rows)
        scores_BV = self.scorer.scores(model, batch, batch.tensors["last"]).float()
        right_B = scores_BV.gather(1, target[:, None])
        seen_BV = torch.zeros_like(scores_BV, dtype=torch.bool).scatter_(1, batch.tensors[INPUT_IDS], value=True)
        seen_BV.scatter_(1, target[:, None], value=False)
        seen_BV[:, NOTHING] = True
        better = (scores_BV > right_B) & ~seen_BV
        rank = torch.where(
            target > 0, better.sum(dim=-1) + 1, torch.zeros(rows, dtype=torch.int64, device=target.device)
        )
        chances_BV = scores_BV.masked_fill(seen_BV, -torch.inf).softmax(dim=-1)
        chances, top = chances_BV.topk(min(TOLD, len(self.items)), dim=-1)
        return {"rank": rank, "top": top, "chances": chances}


def read(columns: Columns) -> Read:
    """Read a list of at least two items."""
    items = columns.need("items")

    def build(row: Row) -> Example:
        found = words_of(row, items)
        if len(found) < 2:
            row.refuse(f"column {items!r} holds one item", "Write at least two, or delete the row.")
        return Example(row, parts=found)

    return build


def build(spec: FineTuneJobSpec, splits: Splits, tokenizer: Tokenizer) -> Recommendation:
    """Find the items in the training rows.

    Args:
        spec: The manifest's.
        splits: All sets.
        tokenizer: Not used: items are no texts.

    Returns:
        The task.

    Raises:
        DataError: There are fewer than two items.
    """
    counts = Counter(name for example in splits.train for name in example.parts)
    if len(counts) < 2:
        raise DataError(
            f"the training rows hold {len(counts)} item, at least two are needed",
            remedy="Check that the file is complete and data.fields.items names the right column.",
        )
    return restore(spec, {"items": sorted(counts)}, tokenizer)


def restore(spec: FineTuneJobSpec, kept: Mapping[str, Any], tokenizer: Tokenizer) -> Recommendation:  # noqa: ARG001
    """Return the task for its items."""
    return Recommendation(tuple(kept["items"]), spec.training.label_smoothing)
