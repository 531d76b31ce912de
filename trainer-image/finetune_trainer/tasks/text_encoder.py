"""What the tasks over whole texts share: tokenising texts and pairs, padding, and the model's output per text."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from finetune_trainer.data.formats import Row
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read, text_of
from finetune_trainer.data.table import INPUT_IDS, Array, TokenTable, build_table
from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.prefix import STATES, behind_frozen, collate_states
from finetune_trainer.tasks.base import Batch, Encoded, Piece, attention_mask, pad
from finetune_trainer.tasks.first_token import first_token_only

_TYPES = "token_type_ids"


def read_texts(columns: Columns, label_of: Callable[[Row], str | float | tuple[str, ...]]) -> Read:
    """Return what reads a text or a pair, and what is to be said of it."""
    text, pair = columns.need("text"), columns.find("textPair")
    return lambda row: Example(
        row, text=text_of(row, text), pair=text_of(row, pair) if pair else None, label=label_of(row)
    )


def encode_texts(examples: Sequence[Example], tokenizer: Tokenizer, max_length: int, labels: Array) -> Encoded:
    """Tokenise texts or pairs, with `labels` as a dense column; segment numbers are kept only where they differ."""
    texts: list[str] | list[tuple[str, str]] = [example.text for example in examples]
    paired = any(example.pair is not None for example in examples)
    if paired:
        texts = [(example.text, example.pair or "") for example in examples]
    found = tokenizer.encode(texts, max_length) if texts else []
    ragged: dict[str, list[list[int]]] = {INPUT_IDS: [each.ids for each in found]}
    if paired:
        ragged[_TYPES] = [each.type_ids for each in found]
    return Encoded(build_table(ragged, {"labels": labels}), examples, (), sum(bool(each.overflowing) for each in found))


def collate_texts(table: TokenTable, rows: Rows, pad_id: int, labels: Tensor) -> Batch:
    """Return input_ids, labels and, where they carry something, attention_mask, token_type_ids and frozen states."""
    tensors = {INPUT_IDS: pad(table, INPUT_IDS, rows, pad_id), "labels": labels}
    mask = attention_mask(table, rows)
    if mask is not None:
        tensors["attention_mask"] = mask
    if _TYPES in table.ragged:
        tensors[_TYPES] = pad(table, _TYPES, rows, 0)
    states = collate_states(table, rows)
    if states is not None:
        tensors[STATES] = states
    return Batch(tensors, rows)


def pooled_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Return the model's scores per text, [B, C]."""
    inputs = batch.inputs()
    if "attention_mask" not in inputs:
        inputs["attention_mask"] = torch.ones_like(inputs[INPUT_IDS])
    with first_token_only(model), behind_frozen(model, batch.tensors.get(STATES)):
        return model(**inputs).logits


def text_pieces(table: TokenTable, row: int, tokenizer: Tokenizer) -> Sequence[Piece]:
    """Return a whole text as one unsupervised piece."""
    return [Piece(tokenizer.decode(table.row(INPUT_IDS, row).tolist()), supervised=False)]
