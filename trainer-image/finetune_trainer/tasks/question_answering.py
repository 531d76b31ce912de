"""Extractive question answering: the answer is a span of the context.

A long context is read in windows that overlap by a quarter; the best span of all windows of a row is its answer. Rows
without an answer are learned as a span of the first token, and can then be told too (SQuAD 2).

Legend: B windows, T tokens, W most tokens of an answer.
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
from finetune_trainer.data.schema import Columns, Example, Read, text_of
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import INPUT_IDS, TokenTable, build_table
from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.objectives import choice_losses
from finetune_trainer.tasks import text_metrics
from finetune_trainer.tasks.base import (
    Answer,
    Batch,
    Encoded,
    HeadSpec,
    Piece,
    Predictions,
    Refused,
    attention_mask,
    pad,
    rows_by_example,
)

MAX_ANSWER_TOKENS = 30
_TYPES = "token_type_ids"
_BEGIN, _END = "begin", "end"


@dataclass(frozen=True, slots=True)
class QuestionAnswering:
    """Cross-entropy of the first and the last token, one half each. `unanswerable`: some rows have no answer."""

    unanswerable: bool
    label_smoothing: float
    pad_id: int = 0
    name: str = "question-answering"
    metric_names: tuple[str, ...] = ("loss", "exact_match", "f1")
    head: HeadSpec = field(default_factory=lambda: HeadSpec("question-answering", {"num_labels": 2}))

    def fingerprint(self) -> Mapping[str, Any]:
        """Nothing beyond the rows decides the encoding."""
        return {}

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer, max_length: int) -> Encoded:
        """Cut contexts into windows; `begin` and `end` are 1 + characters of context tokens, `span` the answer's."""
        overlap = max(0, max_length // 4 - 3)
        questions = tokenizer.encode([example.pair or "" for example in examples], None) if examples else []
        short = [example for example, each in zip(examples, questions, strict=True) if len(each) <= max_length // 2]
        refused = [
            Refused(example, f"the question alone has {len(each)} tokens, more than half of {max_length}")
            for example, each in zip(examples, questions, strict=True)
            if len(each) > max_length // 2
        ]
        pairs = [(example.pair or "", example.text) for example in short]
        ragged: dict[str, list[list[int]]] = {name: [] for name in (INPUT_IDS, _TYPES, _BEGIN, _END)}
        kept: list[Example] = []
        spans: list[tuple[int, int]] = []
        for example, windows in zip(short, tokenizer.encode_windows(pairs, max_length, overlap), strict=True):
            for each in windows:
                inside = [
                    part == 1 and end > begin
                    for part, (begin, end) in zip(each.sequence_ids, each.offsets, strict=True)
                ]
                ragged[INPUT_IDS].append(each.ids)
                ragged[_TYPES].append(each.type_ids)
                ragged[_BEGIN].append([1 + b if ok else 0 for ok, (b, _) in zip(inside, each.offsets, strict=True)])
                ragged[_END].append([1 + e if ok else 0 for ok, (_, e) in zip(inside, each.offsets, strict=True)])
                spans.append(_span(example, ragged[_BEGIN][-1], ragged[_END][-1]))
                kept.append(example)
        dense = np.array(spans, dtype=np.int64).reshape(len(spans), 2)
        return Encoded(build_table(ragged, {"span": dense}), kept, refused, 0)

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:  # noqa: ARG002 - nothing is random
        """Return the inputs, the characters of tokens, which may be an answer's, [B, T]; and `span`, [B, 2]."""
        tensors = {
            INPUT_IDS: pad(table, INPUT_IDS, rows, self.pad_id),
            _BEGIN: pad(table, _BEGIN, rows, 0),
            _END: pad(table, _END, rows, 0),
            "span": torch.from_numpy(np.array(table.dense["span"][rows])),
        }
        if table.ragged[_TYPES].any():
            tensors[_TYPES] = pad(table, _TYPES, rows, 0)
        mask = attention_mask(table, rows)
        if mask is not None:
            tensors["attention_mask"] = mask
        return Batch(tensors, rows)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:  # noqa: ARG002
        """Windows."""
        return float(len(rows))

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy over the context's tokens and the first one."""
        return self._losses(*_scores(model, batch), batch, self.label_smoothing).sum()

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return each window's `loss`, its best span's characters and score, and the score of no answer."""
        start_BT, end_BT = _scores(model, batch)
        score, first, last = _best_span(start_BT, end_BT)
        begin = batch.tensors[_BEGIN].gather(1, first[:, None])[:, 0] - 1
        end = batch.tensors[_END].gather(1, last[:, None])[:, 0] - 1
        found = {
            "loss": self._losses(start_BT, end_BT, batch, 0.0),
            "begin": begin,
            "end": end,
            "score": score,
            "none": start_BT[:, 0] + end_BT[:, 0],
        }
        return {name: each.cpu().numpy() for name, each in found.items()}

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:
        """Return loss per window, and the part of rows answered exactly and the mean F1 of words, as SQuAD's script.

        Several right answers count by the best of them.
        """
        windows = rows_by_example(examples)
        told = [self._answer(predictions, examples, members)[0] for members in windows.values()]
        gold = [examples[members[0]].parts or ("",) for members in windows.values()]
        loss = float(predictions["loss"].astype(np.float64).mean())
        return {"loss": loss} | text_metrics.squad(told, gold)

    def pieces(self, table: TokenTable, row: int, tokenizer: Tokenizer) -> Sequence[Piece]:
        """Return a window, its answer apart."""
        ids = table.row(INPUT_IDS, row).tolist()
        first, last = (int(each) for each in table.dense["span"][row])
        if last == 0:
            return [Piece(tokenizer.decode(ids), supervised=False)]
        parts = ((ids[:first], False), (ids[first : last + 1], True), (ids[last + 1 :], False))
        return [Piece(tokenizer.decode(part), supervised=learned) for part, learned in parts]

    def label_text(self, example: Example) -> str:
        """Return the answers."""
        return " | ".join(example.parts)

    def _losses(self, start_BT: Tensor, end_BT: Tensor, batch: Batch, smoothing: float) -> Tensor:
        span = batch.tensors["span"]
        return 0.5 * (choice_losses(start_BT, span[:, 0], smoothing) + choice_losses(end_BT, span[:, 1], smoothing))

    def ask(self, columns: Columns) -> Read:
        """Read a context and a question."""
        context, question = columns.need("context"), columns.need("question")
        return lambda row: Example(row, text=text_of(row, context), pair=text_of(row, question))

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:
        """Return the `answer`, the character at which it starts, and how much more likely than none it is, in nats."""
        windows = rows_by_example(examples)
        told = {key: self._answer(predictions, examples, members) for key, members in windows.items()}
        found = {key: {"answer": text, "start": start, "score": score} for key, (text, start, score) in told.items()}
        return [found[id(example)] for example in examples]

    def kept(self) -> Mapping[str, Any]:
        """Return whether there may be no answer."""
        return {"unanswerable": self.unanswerable}

    def _answer(
        self, predictions: Predictions, examples: Sequence[Example], windows: Sequence[int]
    ) -> tuple[str, int | None, float]:
        """Return the best answer of a row's windows, where it starts, and its score above that of none."""
        best = max(windows, key=lambda at: float(predictions["score"][at]))
        above = float(predictions["score"][best]) - min(float(predictions["none"][at]) for at in windows)
        if self.unanswerable and above < 0:
            return "", None, above
        begin, end = (int(predictions[name][best]) for name in ("begin", "end"))
        return examples[best].text[begin:end], begin, above


def read(columns: Columns) -> Read:
    """Read a context, a question, and the answers with or without the characters at which they begin."""
    context, question, answers = columns.need("context"), columns.need("question"), columns.need("answers")
    start = "answer_start" if "answer_start" in columns.names else None

    def build(row: Row) -> Example:
        text = text_of(row, context)
        found, starts = _answers_of(row, answers, start)
        places = [_place(row, text, answer, at) for answer, at in zip(found, starts, strict=True)]
        return Example(row, text=text, pair=text_of(row, question), parts=found, starts=tuple(places))

    return build


def build(spec: FineTuneJobSpec, splits: Splits, tokenizer: Tokenizer) -> QuestionAnswering:
    """Find out whether there may be no answer."""
    unanswerable = any(not example.parts for example in splits.train)
    return restore(spec, {"unanswerable": unanswerable}, tokenizer)


def restore(spec: FineTuneJobSpec, kept: Mapping[str, Any], tokenizer: Tokenizer) -> QuestionAnswering:
    """Return the task, which may have learned that there is no answer to some questions."""
    return QuestionAnswering(kept["unanswerable"], spec.training.label_smoothing, tokenizer.pad_id)


def _answers_of(row: Row, column: str, start: str | None) -> tuple[tuple[str, ...], Sequence[int | None]]:
    """Return the answers of a row and where they begin: SQuAD's object, a list of texts, one text, or none."""
    value: Any = row.values.get(column)
    starts: Any = row.values.get(start) if start else None
    if isinstance(value, Mapping):
        value, starts = value.get("text", []), value.get("answer_start")
    if value is None or value == "":
        return (), ()
    texts = [value] if isinstance(value, str) else value
    starts = [starts] if isinstance(starts, int) else starts
    if not isinstance(texts, list) or not all(isinstance(each, str) and each.strip() for each in texts):
        row.refuse(f"column {column!r} holds no answers (found {value!r})", "Write a text, a list of them, or null.")
    if starts is None:
        return tuple(texts), [None] * len(texts)
    if not isinstance(starts, list) or len(starts) != len(texts) or not all(isinstance(at, int) for at in starts):
        row.refuse(f"the answers begin at {starts!r}, not at one character each", "Write a number for each, or none.")
    return tuple(texts), starts


def _place(row: Row, text: str, answer: str, start: int | None) -> int:
    at = text.find(answer) if start is None else start
    if at < 0 or text[at : at + len(answer)] != answer:
        where = "" if start is None else f" at character {start}"
        row.refuse(f"the context does not hold the answer {answer!r}{where}", "Copy the answer from the context.")
    return at


def _span(example: Example, begin: Sequence[int], end: Sequence[int]) -> tuple[int, int]:
    """Return the first and last token of the first answer that lies in a window, (0, 0) when none does."""
    for answer, start in zip(example.parts, example.starts, strict=True):
        stop = start + len(answer)
        inside = [at for at, b in enumerate(begin) if b and b - 1 < stop and end[at] - 1 > start]
        # Cut at the window's edge when a neighbour of the span is missing: only whole answers are learned.
        if inside and begin[inside[0]] - 1 <= start and end[inside[-1]] - 1 >= stop:
            return inside[0], inside[-1]
    return 0, 0


def _scores(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the scores of first and last tokens, [B, T]; minus infinity outside the context but for token 0."""
    found = model(**batch.inputs())
    allowed_BT = batch.tensors[_BEGIN] > 0
    allowed_BT[:, 0] = True
    start_BT, end_BT = (
        each.float().masked_fill(~allowed_BT, -torch.inf) for each in (found.start_logits, found.end_logits)
    )
    return start_BT, end_BT


def _best_span(start_BT: Tensor, end_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return score, first and last token of the best span of at most W context tokens, each [B]."""
    start_BT, tokens = start_BT.clone(), start_BT.shape[1]
    start_BT[:, 0] = -torch.inf
    widths: list[Tensor] = []
    for width in range(min(MAX_ANSWER_TOKENS, tokens)):
        shifted_BT = torch.full_like(end_BT, -torch.inf)
        shifted_BT[:, : tokens - width] = end_BT[:, width:]
        widths.append(start_BT + shifted_BT)
    score_B, place_B = torch.stack(widths, dim=-1).flatten(1).max(dim=-1)
    first_B = place_B // len(widths)
    return score_B, first_B, first_B + place_B % len(widths)
