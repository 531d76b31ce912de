"""The next token: of plain text, of completions after prompts, or of the assistant's turns in conversations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.chat import chat_pieces, messages_of, opening_of
from finetune_trainer.data.formats import Row
from finetune_trainer.data.packing import pack
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read, text_of
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import INPUT_IDS, Array, TokenTable, build_table
from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.errors import DataError
from finetune_trainer.tasks.base import (
    Answer,
    Batch,
    Encoded,
    HeadSpec,
    Piece,
    Predictions,
    Refused,
    marked_pieces,
    objects,
)
from finetune_trainer.tasks.metrics import perplexity
from finetune_trainer.tasks.scoring import Kind, Scored, own_loss
from finetune_trainer.tasks.token_head import TokenHead, token_predictions, told_tokens

SUPERVISED = "supervised"
_ASKED = ""
"""The completion of a prompt that the model is asked to complete; no row of the data has an empty one."""
_LONGEST_ANSWER = 256


@dataclass(frozen=True)
class CausalLM:
    """Cross-entropy over supervised tokens. With `packing`, short rows share a sequence without seeing each other."""

    packing: bool
    label_smoothing: float
    tokenizer: Tokenizer
    pad_id: int = 0
    name: str = "causal-lm"
    metric_names: tuple[str, ...] = ("loss", "perplexity", "token_accuracy", "exact_match")
    head: HeadSpec = field(default_factory=lambda: HeadSpec("causal-lm", {"use_cache": False}))
    scorer: TokenHead = field(default_factory=lambda: TokenHead(("lm_head", "embed_out"), {"use_cache": False}))

    def fingerprint(self) -> Mapping[str, Any]:
        """Packing happens when batches are made, so the encoding depends on the rows alone."""
        return {}

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer, max_length: int) -> Encoded:
        """Tokenise examples; `supervised` is 1 where a token is learned. Rows without any are refused."""
        ids: list[list[int]] = []
        masks: list[list[int]] = []
        kept: list[Example] = []
        refused: list[Refused] = []
        cut = 0
        for example, (row, mask) in zip(examples, tokenise(examples, tokenizer), strict=True):
            # Position 0 has nothing before it that could predict it.
            usable = [0, *mask[1:max_length]]
            if not any(usable):
                refused.append(Refused(example, f"no learned token within the first {max_length} tokens"))
                continue
            cut += len(row) > max_length
            ids.append(row[:max_length])
            masks.append(usable)
            kept.append(example)
        count = np.array([[sum(mask)] for mask in masks], dtype=np.float32).reshape(len(masks), 1)
        return Encoded(build_table({INPUT_IDS: ids, SUPERVISED: masks}, {"targets": count}), kept, refused, cut)

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:  # noqa: ARG002 - nothing is random
        """Return input_ids [S, T]; the flat positions `select` predict the ids `targets` of the rows `owner`, all [K].

        Padding stands on the right, where causal attention never looks back from a token, so no mask is needed
        unless rows share a sequence.
        """
        lengths = table.lengths[rows]
        width = int(lengths.max())
        sequences = pack(lengths.tolist(), width) if self.packing else [[i] for i in range(len(rows))]
        input_ids = np.full((len(sequences), width), self.pad_id, dtype=np.int64)
        positions = np.zeros_like(input_ids)
        segments = np.full_like(input_ids, -1)
        select: list[np.ndarray] = []
        targets: list[np.ndarray] = []
        owner: list[np.ndarray] = []
        for at, members in enumerate(sequences):
            start = 0
            for member in members:
                row = int(rows[member])
                tokens = table.row(INPUT_IDS, row)
                end = start + len(tokens)
                input_ids[at, start:end] = tokens
                positions[at, start:end] = np.arange(len(tokens))
                segments[at, start:end] = member
                learned = np.flatnonzero(table.row(SUPERVISED, row))
                select.append(at * width + start + learned - 1)
                targets.append(tokens[learned].astype(np.int64))
                owner.append(np.full(len(learned), member, dtype=np.int64))
                start = end
        tensors = {
            INPUT_IDS: torch.from_numpy(input_ids),
            "select": torch.from_numpy(np.concatenate(select)),
            "targets": torch.from_numpy(np.concatenate(targets)),
            "owner": torch.from_numpy(np.concatenate(owner)),
        }
        if len(sequences) < len(rows):
            tensors["position_ids"] = torch.from_numpy(positions)
            tensors["attention_mask"] = _segment_mask(torch.from_numpy(segments))
        return Batch(tensors, rows)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:  # noqa: ARG002
        """Supervised tokens."""
        return float(table.dense["targets"][rows].sum(dtype=np.float64))

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy over the supervised tokens."""
        return own_loss(self, model, batch)

    @property
    def kind(self) -> Kind:
        """Tokens that exclude each other."""
        return "one"

    def scored(self, model: nn.Module, batch: Batch) -> Scored:
        """Return what the scores of each supervised token are made from."""
        return self.scorer.scored(model, batch)

    def losses(self, scores_KC: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Return each token's loss."""
        return F.cross_entropy(scores_KC, targets["targets"], reduction="none", label_smoothing=self.label_smoothing)

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return each row's summed `loss`, its supervised `tokens` and how many of them are `right`."""
        losses_K, right_K = self.scorer.losses(model, batch, 0.0)
        return token_predictions(losses_K, right_K, batch)

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:  # noqa: ARG002
        """Return loss and perplexity per token, token accuracy and exact match.

        A row matches exactly when the best token is right at every supervised position given the right ones before:
        that is when greedy decoding from the prompt would write the completion.
        """
        tokens = predictions["tokens"].sum()
        loss = float(predictions["loss"].sum() / tokens)
        return {
            "loss": loss,
            "perplexity": perplexity(loss),
            "token_accuracy": float(predictions["right"].sum() / tokens),
            "exact_match": float((predictions["right"] == predictions["tokens"]).mean()),
        }

    def ask(self, columns: Columns) -> Read:
        """Read a conversation that the assistant is to continue, else a prompt, else a text to be judged."""
        if messages := columns.find("messages"):
            return lambda row: Example(row, messages=opening_of(row, messages), completion=_ASKED)
        if prompt := columns.find("prompt"):
            return _prompts(columns, prompt, lambda _: _ASKED)
        return read(columns)

    def respond(self, model: nn.Module, rows: Encoded, which: Rows) -> Predictions:
        """Return the `text` written after each prompt; a text that is none is judged."""
        table, device = rows.table, next(model.parameters()).device
        if rows.examples[int(which[0])].completion != _ASKED:
            return self.predict(model, self.collate(table, which, None).to(device))
        ends = [int(np.flatnonzero(table.row(SUPERVISED, int(row)))[0]) for row in which]
        prompts = [table.row(INPUT_IDS, int(row))[:end] for row, end in zip(which, ends, strict=True)]
        return {"text": objects(self._write(model, prompts, device))}

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:  # noqa: ARG002
        """Return the `text` written; of a judged row its mean `loss`, its `tokens` and how many are `right`."""
        if "text" in predictions:
            return [{"text": text} for text in predictions["text"]]
        return told_tokens(predictions)

    def pieces(self, table: TokenTable, row: int, tokenizer: Tokenizer) -> Sequence[Piece]:
        """Return the text in pieces that are learned or not."""
        return marked_pieces(table.row(INPUT_IDS, row), table.row(SUPERVISED, row), tokenizer)

    def _write(self, model: nn.Module, prompts: Sequence[Array], device: torch.device) -> list[str]:
        """Continue prompts with the likeliest tokens; they are padded on the left, where all of them end together."""
        generator: Any = model
        width = max(map(len, prompts))
        ids_BT = np.full((len(prompts), width), self.pad_id, dtype=np.int64)
        mask_BT = np.zeros_like(ids_BT)
        for at, prompt in enumerate(prompts):
            ids_BT[at, width - len(prompt) :], mask_BT[at, width - len(prompt) :] = prompt, 1
        positions = getattr(generator.config, "max_position_embeddings", None) or width + _LONGEST_ANSWER
        ends = generator.generation_config.eos_token_id
        found_BT = generator.generate(
            torch.from_numpy(ids_BT).to(device),
            attention_mask=torch.from_numpy(mask_BT).to(device),
            do_sample=False,
            use_cache=True,
            max_new_tokens=max(1, min(_LONGEST_ANSWER, positions - width)),
            pad_token_id=self.pad_id,
            eos_token_id=[*(ends if isinstance(ends, list) else [] if ends is None else [ends]), *self._ends],
        )
        return [self.tokenizer.decode(row, special=False).strip() for row in found_BT[:, width:].tolist()]

    @property
    def _ends(self) -> list[int]:
        end = self.tokenizer.id_of("eos_token")
        return [] if end is None else [end]

    def label_text(self, example: Example) -> str:
        """Return the completion or the assistant's words."""
        if example.messages:
            return " | ".join(each["content"] for each in example.messages if each["role"] == "assistant")
        return example.completion or ""


def read(columns: Columns) -> Read:
    """Read messages, else prompt and completion, else text.

    Args:
        columns: Those of the file.

    Returns:
        What reads one row.

    Raises:
        DataError: None of them is there.
    """
    if messages := columns.find("messages"):
        return lambda row: Example(row, messages=messages_of(row, messages))
    prompt, completion = columns.find("prompt"), columns.find("completion")
    if prompt and completion:
        return _prompts(columns, prompt, lambda row: text_of(row, completion))
    text = columns.find("text")
    if text is None:
        raise DataError(
            f"{columns.file}: no column holds messages, prompt and completion, or text, found {columns.listed()}",
            remedy="Say which one does: data.fields: {messages: COLUMN}.",
        )
    return lambda row: Example(row, text=text_of(row, text))


def _prompts(columns: Columns, prompt: str, completion_of: Callable[[Row], str]) -> Read:
    context = "input" if "input" in columns.names and prompt == "instruction" else None

    def build(row: Row) -> Example:
        text = text_of(row, prompt)
        if context and isinstance(row.values.get(context), str) and row.values[context].strip():
            text = f"{text}\n\n{row.values[context]}"
        return Example(row, text=text, completion=completion_of(row))

    return build


def build(spec: FineTuneJobSpec, splits: Splits, tokenizer: Tokenizer) -> CausalLM:  # noqa: ARG001
    """Nothing is learned from the rows."""
    packing = spec.training.packing is not False and spec.training.adversarial is None
    return CausalLM(packing, spec.training.label_smoothing, tokenizer, tokenizer.pad_id)


def tokenise(examples: Sequence[Example], tokenizer: Tokenizer) -> list[tuple[list[int], list[int]]]:
    """Return each example's token ids, and 1 where a token is learned."""
    pieces = [_pieces_of(example, tokenizer) for example in examples]
    flat = tokenizer.encode_plain([text for row in pieces for text, _ in row])
    rows: list[tuple[list[int], list[int]]] = []
    at = 0
    for row in pieces:
        ids: list[int] = []
        mask: list[int] = []
        for _, learned in row:
            ids += flat[at]
            mask += [int(learned)] * len(flat[at])
            at += 1
        rows.append((ids, mask))
    return rows


def _pieces_of(example: Example, tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    start, end = tokenizer.special.get("bos_token", ""), tokenizer.special.get("eos_token", "")
    if example.completion == _ASKED:
        prompt = start + example.text
        if example.messages:
            prompt = tokenizer.render_chat(example.messages, add_generation_prompt=True)
        # What stands behind a prompt is never read, only where.
        return [(prompt, False), (end or ".", True)]
    if example.messages:
        return chat_pieces(tokenizer, example.messages)
    if example.completion is not None:
        return [(start + example.text, False), (example.completion + end, True)]
    return [(start + example.text + end, True)]


def _segment_mask(segments_ST: Tensor) -> Tensor:
    """Return who may look at whom, [S, 1, T, T] bool: earlier tokens of the same row."""
    same = segments_ST[:, :, None] == segments_ST[:, None, :]
    return torch.tril(same)[:, None]
