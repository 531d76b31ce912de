"""One label for a row of a text, an image, a sound, or any of them; a row may lack some.

Legend: B rows, M parts of the model, C labels.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.formats import Row
from finetune_trainer.data.media import source_of
from finetune_trainer.data.modalities import AUDIO, IMAGE, PARTS, TEXT, Modalities
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read, label_of, text_of
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import INPUT_IDS, Array, TokenTable, fixed_width, media_table, unpadded
from finetune_trainer.errors import DataError
from finetune_trainer.objectives import ClassLoss
from finetune_trainer.tasks.base import Answer, Batch, Encoded, HeadSpec, Piece, Predictions, padded
from finetune_trainer.tasks.labels import (
    classifier_config,
    find_labels,
    likeliest,
    one_label_metrics,
    one_label_predictions,
)
from finetune_trainer.tasks.speech import SAMPLES, Listener
from finetune_trainer.tasks.speech_encoder import exact_encoder
from finetune_trainer.tasks.speech_masking import masking_of
from finetune_trainer.tasks.views import image_piece, pixel_values

load_processor = Modalities.load
_PRESENT = "present"
_RENAMED = {"attention_mask": "audio_attention_mask", "frames": "audio_frames"}
"""What a batch of sounds has under names that texts have too."""


@dataclass(frozen=True, slots=True)
class MultimodalClassification:
    """One of `labels`."""

    labels: tuple[str, ...]
    processor: Modalities
    listener: Listener | None
    label_smoothing: float
    name: str = "multimodal-classification"
    metric_names: tuple[str, ...] = ("loss", "accuracy", "precision", "recall", "f1")

    @property
    def head(self) -> HeadSpec:
        """A fusion over the model's encoders; the convolutions of a pretrained encoder of sounds stay as they are."""
        settings = {**classifier_config(self.labels), **self.processor.architectures()}
        return HeadSpec("fusion", settings, ("feature_extractor",))

    def fingerprint(self) -> Mapping[str, Any]:
        """Labels decide the dense column."""
        return {"labels": self.labels}

    def encode(self, examples: Sequence[Example], processor: Modalities, max_length: int) -> Encoded:
        """Return the texts' tokens, `samples` [N, 1] of sounds, which parts are `present` [N, M], and `labels` [N, 1].

        What a row lacks is the shortest that its encoder reads: nothing of it is seen.
        """
        number = {label: at for at, label in enumerate(self.labels)}
        present = [[_has(example, part) for part in processor.parts] for example in examples]
        dense: dict[str, Array] = {
            "labels": np.array([[number[str(each.label)]] for each in examples], dtype=np.int64).reshape(-1, 1),
            _PRESENT: np.array(present, dtype=np.uint8).reshape(len(examples), -1),
        }
        lengths = np.full(len(examples), 0 if processor.images is None else processor.images.tokens)
        cut = np.zeros(len(examples), dtype=np.bool_)
        if processor.tokenizer is not None and examples:
            found = processor.tokenizer.encode([each.text for each in examples], max_length)
            dense[TEXT] = fixed_width([each.ids or [processor.tokenizer.pad_id] for each in found])
            lengths += [len(each.ids) for each in found]
            cut |= [bool(each.overflowing) for each in found]
        if processor.sounds is not None:
            sounds = processor.sounds
            most, least = sounds.longest(sounds.model_max_length or 1), sounds.shortest
            heard = [each.media[AUDIO].shape[0] if AUDIO in each.media else least for each in examples]
            dense[SAMPLES] = np.clip(np.array(heard, dtype=np.int64), least, most).reshape(-1, 1)
            lengths += [sounds.frames(int(each)) for each in dense[SAMPLES][:, 0]]
            cut |= np.array(heard, dtype=np.int64) > most
        return Encoded(media_table(lengths.tolist(), dense), examples, (), int(cut.sum()))

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:
        """Return each part's input, `present` [B, M] and `labels` [B]."""
        tensors = {name: torch.from_numpy(np.array(table.dense[name][rows])) for name in ("labels", _PRESENT)}
        tensors["labels"] = tensors["labels"][:, 0]
        if self.processor.tokenizer is not None:
            texts = [unpadded(table, TEXT, int(row)) for row in rows]
            tensors[INPUT_IDS], tensors["attention_mask"] = padded(texts, self.processor.tokenizer.pad_id)
        if self.processor.images is not None:
            tensors["pixel_values"] = pixel_values(table, rows, self.processor.images)
        if self.listener is not None:
            heard = self.listener.listen(table, rows, epoch)
            tensors |= {_RENAMED.get(name, name): each for name, each in heard.items()}
        return Batch(tensors, rows)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:  # noqa: ARG002
        """Rows."""
        return float(len(rows))

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy."""
        return ClassLoss(self.label_smoothing).one_of(self._scores(model, batch), batch.tensors["labels"]).sum()

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return `scores` [B, C], `labels` and each row's `loss`."""
        return one_label_predictions(self._scores(model, batch), batch.tensors["labels"])

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:  # noqa: ARG002
        """Return loss, accuracy, and macro-averaged precision, recall and F1."""
        return one_label_metrics(predictions)

    def ask(self, columns: Columns) -> Read:
        """Read what the model has parts for; any label does, since its loss is not told."""
        return _reader(columns, tuple(self.processor.parts), lambda _: self.labels[0])

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:  # noqa: ARG002
        """Return the likeliest `label`, its `score`, and each label's probability as `scores`."""
        return [likeliest(self.labels, row) for row in predictions["scores"].astype(np.float64)]

    def kept(self) -> Mapping[str, Any]:
        """Return the labels."""
        return {"labels": list(self.labels)}

    def pieces(self, table: TokenTable, row: int, processor: Modalities) -> Sequence[Piece]:
        """Return the text, what the image is called, and how long the sound is."""
        has = dict(zip(processor.parts, table.dense[_PRESENT][row].tolist(), strict=True))
        found: list[Piece] = []
        if processor.tokenizer is not None and has[TEXT]:
            found.append(Piece(processor.tokenizer.decode(unpadded(table, TEXT, row).tolist()), supervised=False))
        if processor.images is not None and has[IMAGE]:
            found.append(image_piece(table, row, processor.images))
        if processor.sounds is not None and has[AUDIO]:
            seconds = int(table.dense[SAMPLES][row, 0]) / processor.sounds.rate_hz
            found.append(Piece(f"[{seconds:.2f} s of sound]", supervised=False))
        missing = [f"[no {name}]" for name, there in has.items() if not there]
        return [*found, *(Piece(each, supervised=False) for each in missing)]

    def label_text(self, example: Example) -> str:
        """Return the label."""
        return str(example.label)

    def _scores(self, model: nn.Module, batch: Batch) -> Tensor:
        with self._exact(model, batch):
            return model(**batch.inputs()).logits.float()

    def _exact(self, model: nn.Module, batch: Batch) -> AbstractContextManager[None]:
        if self.listener is None:
            return nullcontext()
        back = {new: old for old, new in _RENAMED.items()}
        sounds = {
            back.get(name, name): each
            for name, each in batch.tensors.items()
            if name not in ("attention_mask", INPUT_IDS)
        }
        whole: Any = model
        return exact_encoder(whole.encoders[AUDIO], Batch(sounds, batch.rows))


def read(columns: Columns) -> Read:
    """Read a label, and of text, image and sound what there is."""
    label = columns.need("label")
    return _reader(columns, PARTS, lambda row: label_of(row, label))


def build(spec: FineTuneJobSpec, splits: Splits, processor: Modalities) -> MultimodalClassification:
    """Find the labels in the training rows.

    Args:
        spec: The manifest's.
        splits: All sets.
        processor: The model's.

    Returns:
        The task.

    Raises:
        DataError: A part of the model stands in no training row, or a row has one that the model cannot read.
    """  # noqa: DOC503
    for part in PARTS:
        having = next((each for rows in splits.named().values() for each in rows if _has(each, part)), None)
        if part in processor.parts and not any(_has(each, part) for each in splits.train):
            raise DataError(
                f"the model has an encoder for {part}, but no training row has one",
                remedy=f"Say which column holds it: data.fields: {{{part}: COLUMN}}, or remove the encoder.",
            )
        if part not in processor.parts and having is not None:
            raise DataError(
                f"{having.place}: has {part}, but the model has no encoder for it",
                remedy=f"Put an encoder into the model's subfolder {part}, or rename the column.",
            )
    return restore(spec, {"labels": find_labels(splits, least=2)}, processor)


def restore(spec: FineTuneJobSpec, kept: Mapping[str, Any], processor: Modalities) -> MultimodalClassification:
    """Return the task for its labels."""
    sounds = processor.sounds
    listener = None if sounds is None else Listener(sounds, masking_of(sounds.config, spec.training.seed))
    return MultimodalClassification(tuple(kept["labels"]), processor, listener, spec.training.label_smoothing)


def _has(example: Example, part: str) -> bool:
    return bool(example.text) if part == TEXT else part in example.media


def _reader(columns: Columns, parts: Sequence[str], label: Callable[[Row], str]) -> Read:
    found = {part: column for part in parts if (column := columns.find(part)) is not None}
    if found.get(IMAGE) is not None and found.get(IMAGE) == found.get(AUDIO):
        del found[AUDIO]  # a bare path, which either may be called
    if not found:
        columns.need(parts[0])

    def one(row: Row) -> Example:
        there = {part: column for part, column in found.items() if row.values.get(column) not in (None, "")}
        if not there:
            row.refuse("none of " + ", ".join(map(repr, found.values())) + " holds anything", "Delete the row.")
        media = {part: source_of(row, column) for part, column in there.items() if part != TEXT}
        return Example(row, text=text_of(row, there[TEXT]) if TEXT in there else "", label=label(row), media=media)

    return one
