"""Vectors of images and texts that are close where they belong together (CLIP, Radford et al. 2021; SigLIP).

CLIP: among all texts of a step each image must find its own, and each text its image. SigLIP (Zhai et al. 2023): of
every image and every text of a step it is told apart whether they belong together. In both the step is the global
batch, and the learned scale belongs to the loss.

Legend: B rows, N rows of a step, D width of a vector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.formats import Row
from finetune_trainer.data.image_text import IMAGE, ImageTextProcessor
from finetune_trainer.data.media import source_of
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read, text_of
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import INPUT_IDS, TokenTable, fixed_width, media_table, unpadded
from finetune_trainer.errors import ConfigError
from finetune_trainer.sources import ModelFiles
from finetune_trainer.tasks.base import EVERYONE, PLACE, Answer, Batch, Encoded, HeadSpec, Piece, Predictions, padded
from finetune_trainer.tasks.retrieval import nearest, recalls
from finetune_trainer.tasks.views import image_piece, pixel_values

RECALLS = tuple(f"{side}_recall_at_{most}" for side in ("image_to_text", "text_to_image") for most in (1, 5))
_TEXT, _PROMPT, _ZERO_SHOT = "text", "prompt", "zero_shot_accuracy"
_MODELS = ("clip", "siglip", "vision-text-dual-encoder")
_CHUNK = 1024
_EXAMPLE_TEXT = "a photo"
_LEGACY_END = 2
"""CLIP models with this end look for the highest token instead, whatever its number: a mistake of early files."""


@dataclass(frozen=True, slots=True)
class ImageText:
    """The contrastive loss of the model's own kind, over all images and texts of the step."""

    processor: ImageTextProcessor
    prompted: bool
    """Whether every row says by a text what class its image is of."""
    name: str = "image-text"
    head: HeadSpec = field(default_factory=lambda: HeadSpec("encoder", {}))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Recall both ways, and how often the class is told where rows have one."""
        return ("loss", *RECALLS, *((_ZERO_SHOT,) if self.prompted else ()))

    def fingerprint(self) -> Mapping[str, Any]:
        """The prompts are one column more."""
        return {"prompted": self.prompted}

    def encode(self, examples: Sequence[Example], processor: ImageTextProcessor, max_length: int) -> Encoded:
        """Tokenise captions, and prompts where rows have them."""
        texts = processor.tokenizer.encode([each.text for each in examples], max_length) if examples else []
        dense = {_TEXT: fixed_width([each.ids for each in texts])}
        if self.prompted:
            prompts = processor.tokenizer.encode([each.pair or "" for each in examples], max_length)
            dense[_PROMPT] = fixed_width([each.ids for each in prompts])
        lengths = [processor.images.tokens + len(each) for each in texts]
        return Encoded(media_table(lengths, dense), examples, (), sum(bool(each.overflowing) for each in texts))

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:
        """Return images, `input_ids` and `attention_mask` of captions; while judging also those of prompts."""
        tensors = {"pixel_values": pixel_values(table, rows, self.processor.images), **self._texts(table, _TEXT, rows)}
        if self.prompted and epoch is None:
            tensors |= {f"{_PROMPT}_{name}": each for name, each in self._texts(table, _PROMPT, rows).items()}
        return Batch(tensors, rows)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:  # noqa: ARG002
        """Rows."""
        return float(len(rows))

    def embed(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the vectors of image and text, [B, 2, D]."""
        towers: Any = model
        image = towers.get_image_features(pixel_values=batch.tensors["pixel_values"]).pooler_output
        return torch.stack([F.normalize(image.float(), dim=-1), self._text_vectors(model, batch, "")], dim=1)

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of the batch's rows among everyone; its gradient is that of everyone's loss."""
        vectors_B2D = self.embed(model, batch)
        everyone_N2D, place_B = vectors_B2D, torch.arange(len(batch.rows), device=vectors_B2D.device)
        if EVERYONE in batch.tensors:
            place_B = batch.tensors[PLACE]
            everyone_N2D = batch.tensors[EVERYONE].index_copy(0, place_B, vectors_B2D)
        scale, bias = _scale_and_bias(model)
        # A cosine in bfloat16 has three digits; the scale makes a hundred of it.
        with torch.autocast(vectors_B2D.device.type, enabled=False):
            cosines_NN = everyone_N2D[:, 0] @ everyone_N2D[:, 1].T
            own = self._losses(scale * cosines_NN + bias)[place_B].sum()
            # Other rows have these vectors in their losses too: these move them, and are counted where they are, which
            # is also where they move the scale.
            all_N = self._losses(scale.detach() * cosines_NN + bias.detach())
            others = all_N.sum() - all_N[place_B].sum()
        return own + others - others.detach()

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return the vectors `image`, `text` and of the `prompt`, [B, D], and the model's `scale` and `bias`, [B]."""
        vectors_B2D = self.embed(model, batch).cpu().numpy()
        scale, bias = (np.full(len(batch.rows), float(each)) for each in _scale_and_bias(model))
        found = {"image": vectors_B2D[:, 0], "text": vectors_B2D[:, 1], "scale": scale, "bias": bias}
        if self.prompted:
            found["prompt"] = self._text_vectors(model, batch, f"{_PROMPT}_").cpu().numpy()
        return found

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:
        """Return the loss among all of the set, which is more than in a step, recall, and zero-shot accuracy."""
        names = [(each.media[IMAGE].sha256, each.text) for each in examples]
        found = {"loss": self._loss_of_all(predictions)}
        found |= recalls(predictions["image"], predictions["text"], names)
        if self.prompted:
            prompts = [each.pair or "" for each in examples]
            told = nearest(predictions["image"], predictions["prompt"], prompts)
            found[_ZERO_SHOT] = float(np.mean([one == other for one, other in zip(told, prompts, strict=True)]))
        return found

    def ask(self, columns: Columns) -> Read:
        """Read an image, a text, or both."""
        image, text = columns.find("image"), columns.find("caption")
        if not image and not text:
            columns.need("image")

        def one(row: Row) -> Example:
            media = {IMAGE: source_of(row, image)} if image and row.values.get(image) else {}
            words = text_of(row, text) if text and (not media or row.values.get(text)) else ""
            return Example(row, text=words, pair=words, media=media)

        return one

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:
        """Return `imageVector` and `textVector` of what a row has, and with both their cosine as `score`."""
        told: list[Answer] = []
        for image, text, example in zip(predictions["image"], predictions["text"], examples, strict=True):
            answer: dict[str, Any] = {}
            if IMAGE in example.media:
                answer["imageVector"] = image.tolist()
            if example.text:
                answer["textVector"] = text.tolist()
            if len(answer) > 1:
                answer["score"] = float(image.astype(np.float64) @ text.astype(np.float64))
            told.append(answer)
        return told

    def kept(self) -> Mapping[str, Any]:
        """Return whether rows have prompts."""
        return {"prompted": self.prompted}

    def pieces(self, table: TokenTable, row: int, processor: ImageTextProcessor) -> Sequence[Piece]:
        """Return what the image is called, and the caption as learned."""
        text = processor.tokenizer.decode(unpadded(table, _TEXT, row).tolist())
        return [image_piece(table, row, processor.images), Piece(text, supervised=True)]

    def label_text(self, example: Example) -> str:
        """Return the caption."""
        return example.text

    @property
    def _pairwise(self) -> bool:
        return self.processor.config["model_type"] == "siglip"

    def _texts(self, table: TokenTable, column: str, rows: Rows) -> dict[str, Tensor]:
        texts = [unpadded(table, column, int(row)) for row in rows]
        pad_id = self.processor.tokenizer.pad_id
        if not self._pairwise:
            input_ids, mask = padded(texts, pad_id)
            return {INPUT_IDS: input_ids, "attention_mask": mask}
        # SigLIP is trained on texts of full width without a mask, and its vector is that of the last token.
        width = self.processor.positions or max(map(len, texts))
        full = [np.concatenate([each, np.full(width - len(each), pad_id)]) for each in texts]
        return {INPUT_IDS: padded(full, pad_id)[0]}

    def _text_vectors(self, model: nn.Module, batch: Batch, prefix: str) -> Tensor:
        towers: Any = model
        names = [name for name in (INPUT_IDS, "attention_mask") if prefix + name in batch.tensors]
        found = towers.get_text_features(**{name: batch.tensors[prefix + name] for name in names})
        return F.normalize(found.pooler_output.float(), dim=-1)

    def _losses(self, scores_NN: Tensor) -> Tensor:
        """Return each row's loss, [N]; scores are of images against texts."""
        if self._pairwise:
            sign_NN = 2.0 * torch.eye(len(scores_NN), dtype=scores_NN.dtype, device=scores_NN.device) - 1.0
            return -F.logsigmoid(sign_NN * scores_NN).sum(dim=1)
        right_N = torch.arange(len(scores_NN), device=scores_NN.device)
        both = [F.cross_entropy(each, right_N, reduction="none") for each in (scores_NN, scores_NN.T)]
        return (both[0] + both[1]) / 2.0

    def _loss_of_all(self, predictions: Predictions) -> float:
        """Return the mean loss of a set's rows among all of it, in parts that fit into memory."""
        image_ND, text_ND = (torch.from_numpy(predictions[name].astype(np.float64)) for name in ("image", "text"))
        scale, bias = (float(predictions[name][0]) for name in ("scale", "bias"))
        total = 0.0
        for rows in torch.arange(len(image_ND)).split(_CHUNK):
            scores = scale * image_ND[rows] @ text_ND.T + bias
            if self._pairwise:
                scores[torch.arange(len(rows)), rows] *= -1.0
                total += float(F.softplus(scores).sum())
                continue
            back = scale * text_ND[rows] @ image_ND.T + bias
            total += sum(float(F.cross_entropy(each, rows, reduction="sum")) for each in (scores, back)) / 2.0
        return total / len(image_ND)


def load_processor(files: ModelFiles) -> ImageTextProcessor:
    """Read what the model reads.

    Args:
        files: The model's.

    Returns:
        Image settings and tokenizer.

    Raises:
        ConfigError: The model has no two encoders, or the tokenizer writes no end where the model looks for it.
    """
    processor = ImageTextProcessor.load(files)
    kind = processor.config.get("model_type")
    if kind not in _MODELS:
        raise ConfigError(
            f"{files.uri}: a {kind} model has no encoders of images and texts whose vectors are compared",
            remedy=f"Choose a model of the type {', '.join(_MODELS)}.",
        )
    end = processor.text_config.get("eos_token_id", _LEGACY_END)
    if end == _LEGACY_END:
        end = processor.tokenizer.backend.get_vocab_size() - 1
    last = processor.tokenizer.encode([_EXAMPLE_TEXT], None)[0].ids[-1]
    if kind == "clip" and end != last:
        raise ConfigError(
            f"{files.uri}: the vector of a text is that of the token {end}, but the tokenizer ends a text with {last}",
            remedy="Set text_config.eos_token_id in config.json, or give the tokenizer that belongs to the model.",
        )
    return processor


def read(columns: Columns) -> Read:
    """Read an image and its caption, and what tells the image's class where there is one."""
    image, text, prompt = columns.need("image"), columns.need("caption"), columns.find("classPrompt")

    def one(row: Row) -> Example:
        told = text_of(row, prompt) if prompt else None
        return Example(row, text=text_of(row, text), pair=told, media={IMAGE: source_of(row, image)})

    return one


def build(spec: FineTuneJobSpec, splits: Splits, processor: ImageTextProcessor) -> ImageText:
    """Find out whether rows have prompts."""
    prompted = all(each.pair is not None for rows in splits.named().values() for each in rows)
    return restore(spec, {"prompted": prompted}, processor)


def restore(spec: FineTuneJobSpec, kept: Mapping[str, Any], processor: ImageTextProcessor) -> ImageText:  # noqa: ARG001
    """Return the task."""
    return ImageText(processor, kept["prompted"])


def _scale_and_bias(model: nn.Module) -> tuple[Tensor, Tensor]:
    towers: Any = model
    scale: Tensor = towers.logit_scale.exp()
    return scale, getattr(towers, "logit_bias", torch.zeros_like(scale))
