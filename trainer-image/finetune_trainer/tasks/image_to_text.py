"""Texts from images, by an encoder and a decoder: what image-captioning and visual-question-answering share.

A question stands before its answer, where the decoder begins; only the answer is learned. While judging, texts are
written by beam search.

Legend: B rows, T tokens of the decoder, K target tokens of all rows.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.image_text import IMAGE, ImageTextProcessor
from finetune_trainer.data.media import source_of
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read, text_of
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import Array, TokenTable, fixed_width, media_table, unpadded
from finetune_trainer.errors import ConfigError
from finetune_trainer.sources import ModelFiles
from finetune_trainer.tasks.base import Answer, Batch, Encoded, HeadSpec, Piece, Predictions, objects, padded
from finetune_trainer.tasks.seq2seq import BEAMS
from finetune_trainer.tasks.token_head import TokenHead, token_predictions
from finetune_trainer.tasks.views import image_piece, pixel_values

_QUESTION, _TARGET = "question", "target"
_MODEL = "vision-encoder-decoder"


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the tasks: the roles of its columns, and how written texts are compared."""

    name: str
    question: str | None
    target: str
    measures: tuple[str, ...]
    compare: Callable[[Sequence[str], Sequence[str]], dict[str, float]]

    def read(self, columns: Columns) -> Read:
        """Read an image, a question where the task has one, and the text to be written."""
        target = columns.need(self.target)
        return self.reader(columns, lambda row: text_of(row, target))

    def reader(self, columns: Columns, written: Callable[[Any], str]) -> Read:
        """Return what reads an image and a question; what is written comes from elsewhere."""
        image, asked = columns.need("image"), columns.need(self.question) if self.question else None
        return lambda row: Example(
            row,
            text=text_of(row, asked) if asked else "",
            completion=written(row),
            media={IMAGE: source_of(row, image)},
        )


@dataclass(frozen=True)
class ImageToText:
    """Cross-entropy over the text's tokens; what the model writes is compared with the text."""

    kind: Kind
    processor: ImageTextProcessor
    longest: int
    """Most tokens that are written."""
    label_smoothing: float
    head: HeadSpec = field(default_factory=lambda: HeadSpec("image-to-text", {}))
    scorer: TokenHead = field(default_factory=lambda: TokenHead((), {"use_cache": False}))

    @property
    def name(self) -> str:
        """Key of the registry."""
        return self.kind.name

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The loss, and what the texts are judged by."""
        return ("loss", *self.kind.measures)

    def fingerprint(self) -> Mapping[str, Any]:
        """What a decoder begins and ends with decides the tokens."""
        return {"ends": _ends(self.processor)}

    def encode(self, examples: Sequence[Example], processor: ImageTextProcessor, max_length: int) -> Encoded:
        """Tokenise questions, as they stand, and targets, with their end; both together fit the decoder."""
        start, end = _ends(processor)
        asked = [_bare(ids, start, end) for ids in _tokens(processor, [each.text for each in examples])]
        targets = [_bare(ids, start, end) for ids in _tokens(processor, [each.completion or "" for each in examples])]
        asked = [ids[: max_length // 2] if self.kind.question else [] for ids in asked]
        kept = [[*ids[: max_length - len(before) - 1], end] for before, ids in zip(asked, targets, strict=True)]
        cut = sum(len(ids) > len(each) - 1 for ids, each in zip(targets, kept, strict=True))
        dense = {_QUESTION: fixed_width(asked), _TARGET: fixed_width(kept)}
        lengths = [processor.images.tokens + len(a) + len(b) for a, b in zip(asked, kept, strict=True)]
        return Encoded(media_table(lengths, dense), examples, (), cut)

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:  # noqa: ARG002 - nothing is random
        """Return images and the decoder's side: flat positions `select` predict `targets` of rows `owner`, all [K]."""
        start, _ = _ends(self.processor)
        asked, targets = ([unpadded(table, name, int(row)) for row in rows] for name in (_QUESTION, _TARGET))
        read = [np.concatenate([[start], a, b[:-1]]) for a, b in zip(asked, targets, strict=True)]
        # Padding stands on the right, where the decoder never looks back from a token.
        decoder_ids, _ = padded(read, self.processor.tokenizer.pad_id)
        width = decoder_ids.shape[1]
        select = [at * width + len(a) + np.arange(len(b)) for at, (a, b) in enumerate(zip(asked, targets, strict=True))]
        tensors = {
            "pixel_values": pixel_values(table, rows, self.processor.images),
            "decoder_input_ids": decoder_ids,
            "select": torch.from_numpy(np.concatenate(select)),
            "targets": torch.from_numpy(np.concatenate(targets)),
            "owner": torch.from_numpy(np.repeat(np.arange(len(rows)), [len(each) for each in targets])),
        }
        return Batch(tensors, rows)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:  # noqa: ARG002
        """Target tokens."""
        return float((table.dense[_TARGET][rows] >= 0).sum())

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy over the target's tokens."""
        return self.scorer.losses(model, batch, self.label_smoothing)[0].sum()

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return each row's summed `loss`, its target `tokens`, how many are `right`, and the `text` written for it."""
        losses_K, right_K = self.scorer.losses(model, batch, 0.0)
        first = {int(owner): int(at) for at, owner in reversed(list(enumerate(batch.tensors["owner"].tolist())))}
        select, width = batch.tensors["select"], batch.tensors["decoder_input_ids"].shape[1]
        lengths = [int(select[first[at]]) - at * width + 1 for at in range(len(batch.rows))]
        prompts = [batch.tensors["decoder_input_ids"][at, :length] for at, length in enumerate(lengths)]
        text = objects(self._write(model, batch.tensors["pixel_values"], prompts))
        return {**token_predictions(losses_K, right_K, batch), "text": text}

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:
        """Return the loss per target token, and the texts' metrics."""
        loss = float(predictions["loss"].sum() / predictions["tokens"].sum())
        return {"loss": loss} | self.kind.compare(
            list(predictions["text"]), [each.completion or "" for each in examples]
        )

    def ask(self, columns: Columns) -> Read:
        """Read an image, and a question where the task has one."""
        return self.kind.reader(columns, lambda _: "")

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:  # noqa: ARG002
        """Return the `text`."""
        return [{"text": str(each)} for each in predictions["text"]]

    def kept(self) -> Mapping[str, Any]:
        """Return how long a text may be."""
        return {"longest": self.longest}

    def pieces(self, table: TokenTable, row: int, processor: ImageTextProcessor) -> Sequence[Piece]:
        """Return what the image is called, the question, and the text as learned."""
        asked, target = (
            processor.tokenizer.decode(unpadded(table, each, row).tolist()) for each in (_QUESTION, _TARGET)
        )
        question = [Piece(asked, supervised=False)] if self.kind.question else []
        return [image_piece(table, row, processor.images), *question, Piece(target, supervised=True)]

    def label_text(self, example: Example) -> str:
        """Return the text to be written."""
        return example.completion or ""

    def _write(self, model: nn.Module, pixels: Tensor, prompts: Sequence[Tensor]) -> list[str]:
        """Write a text behind each prompt; prompts of one length go together, so none is padded."""
        writer: Any = model
        _, end = _ends(self.processor)
        by_length: dict[int, list[int]] = defaultdict(list)
        for at, prompt in enumerate(prompts):
            by_length[len(prompt)].append(at)
        texts = [""] * len(prompts)
        for length, places in by_length.items():
            ids_BT = writer.generate(
                pixels[places],
                decoder_input_ids=torch.stack([prompts[at] for at in places]),
                num_beams=BEAMS,
                do_sample=False,
                max_new_tokens=self.longest,
                max_length=None,
                eos_token_id=end,
                pad_token_id=self.processor.tokenizer.pad_id,
                decoder_start_token_id=_ends(self.processor)[0],
            )
            for at, row in zip(places, ids_BT[:, length:].tolist(), strict=True):
                texts[at] = self.processor.tokenizer.decode(row, special=False).strip()
        return texts


def exact_match(told: Sequence[str], right: Sequence[str]) -> dict[str, float]:
    """Return how many texts are the right ones, but for case and surplus spaces."""
    pairs = zip(told, right, strict=True)
    return {"exact_match": float(np.mean([_plain(one) == _plain(other) for one, other in pairs]))}


def load_processor(files: ModelFiles) -> ImageTextProcessor:
    """Read what the model reads and writes.

    Args:
        files: The model's.

    Returns:
        Image settings and tokenizer.

    Raises:
        ConfigError: The model is no encoder of images with a decoder, or nothing says what a text begins or ends with.
    """
    processor = ImageTextProcessor.load(files)
    kind = processor.config.get("model_type")
    if kind != _MODEL:
        raise ConfigError(
            f"{files.uri}: a {kind} model is no encoder of images with a decoder of texts",
            remedy=f"Choose a model of the type {_MODEL}, such as one of ViT and BERT or GPT-2.",
        )
    start, end = _ends(processor)
    if start is None or end is None:
        raise ConfigError(
            f"{files.uri}: nothing says what a text begins and ends with (found {start} and {end})",
            remedy="Set decoder_start_token_id and eos_token_id in config.json.",
        )
    return processor


def build(kind: Kind, spec: FineTuneJobSpec, splits: Splits, processor: ImageTextProcessor) -> ImageToText:
    """Find the longest text of the training rows: none is written that is longer."""
    longest = max(map(len, _tokens(processor, [each.completion or "" for each in splits.train])))
    return restore(kind, spec, {"longest": longest + 1}, processor)


def restore(kind: Kind, spec: FineTuneJobSpec, kept: Mapping[str, Any], processor: ImageTextProcessor) -> ImageToText:
    """Return the task for the length of its texts."""
    limit = processor.model_max_length
    longest = min(kept["longest"], limit // 2) if limit and kind.question else min(kept["longest"], limit or 10**6)
    return ImageToText(kind, processor, longest, spec.training.label_smoothing)


def _ends(processor: ImageTextProcessor) -> tuple[Any, Any]:
    """Return the tokens that a text begins and ends with; the decoder's own stand for what the model does not say."""
    config, inner, tokenizer = processor.config, processor.text_config, processor.tokenizer
    starts = (config.get("decoder_start_token_id"), inner.get("decoder_start_token_id"), inner.get("bos_token_id"))
    ends = (
        config.get("eos_token_id"),
        inner.get("eos_token_id"),
        tokenizer.id_of("eos_token"),
        tokenizer.id_of("sep_token"),
    )
    return next((each for each in starts if each is not None), None), next(
        (each for each in ends if each is not None), None
    )


def _tokens(processor: ImageTextProcessor, texts: Sequence[str]) -> list[list[int]]:
    return [list(each.ids) for each in processor.tokenizer.encode(texts, None)] if texts else []


def _bare(ids: Array | Sequence[int], start: int, end: int) -> list[int]:
    """Return tokens without what stands for the beginning and the end."""
    found = list(ids)
    if found[:1] == [start]:
        found = found[1:]
    return found[:-1] if found[-1:] == [end] else found


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
