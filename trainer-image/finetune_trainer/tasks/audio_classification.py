"""A label for a sound: what is said, in which language, what it is a sound of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.media import source_of
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read, label_of
from finetune_trainer.data.speech import AUDIO, SpeechProcessor
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import TokenTable
from finetune_trainer.sources import ModelFiles
from finetune_trainer.tasks.base import Answer, Batch, Encoded, HeadSpec, Piece, Predictions, Refused
from finetune_trainer.tasks.labels import (
    class_number,
    classifier_config,
    find_labels,
    likeliest,
    one_label_metrics,
    one_label_predictions,
)
from finetune_trainer.tasks.scoring import Kind, Scored, own_loss
from finetune_trainer.tasks.speech import Listener, Sound, speech_table
from finetune_trainer.tasks.speech_encoder import exact_encoder
from finetune_trainer.tasks.speech_masking import masking_of


@dataclass(frozen=True, slots=True)
class AudioClassification:
    """One label of `labels`."""

    labels: tuple[str, ...]
    listener: Listener
    label_smoothing: float
    name: str = "audio-classification"
    metric_names: tuple[str, ...] = ("loss", "accuracy", "precision", "recall", "f1")

    @property
    def head(self) -> HeadSpec:
        """A classifier over the labels; the convolutions of a pretrained model stay as they are."""
        # Whole layers are never left out: a row's loss would depend on the pass that it is in.
        settings = {**classifier_config(self.labels), "layerdrop": 0.0}
        return HeadSpec("audio-classification", settings, ("feature_extractor",))

    def fingerprint(self) -> Mapping[str, Any]:
        """Labels decide the dense column."""
        return {"labels": self.labels}

    def encode(self, examples: Sequence[Example], processor: SpeechProcessor, max_length: int) -> Encoded:
        """Number the labels, `labels` [N, 1]; a sound longer than the model hears is cut, one without frame refused."""
        number = {label: at for at, label in enumerate(self.labels)}
        most = processor.longest(max_length)
        rows: list[Sound] = []
        refused: list[Refused] = []
        for example in examples:
            samples = min(example.media[AUDIO].shape[0], most)
            frames = processor.frames(samples)
            if frames < 1:
                refused.append(Refused(example, f"a sound of {samples} samples, too short for one frame"))
            else:
                rows.append(Sound(example, frames, samples))
        numbers = [class_number(number, str(each.example.label), each.example) for each in rows]
        labels = np.array(numbers, dtype=np.int64).reshape(-1, 1)
        cut = sum(each.example.media[AUDIO].shape[0] > most for each in rows)
        return speech_table(rows, refused, cut, {"labels": labels})

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:
        """Return the sounds, and `labels` [B]."""
        labels = torch.from_numpy(np.array(table.dense["labels"][rows][:, 0]))
        return Batch({**self.listener.listen(table, rows, epoch), "labels": labels}, rows)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:  # noqa: ARG002
        """Rows."""
        return float(len(rows))

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy."""
        return own_loss(self, model, batch)

    @property
    def kind(self) -> Kind:
        """Classes that exclude each other."""
        return "one"

    def scored(self, model: nn.Module, batch: Batch) -> Scored:
        """Return the scores of each sound."""
        return Scored(self._scores(model, batch), nn.Identity(), {"labels": batch.tensors["labels"]})

    def losses(self, scores_KC: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Return each sound's loss."""
        return F.cross_entropy(scores_KC, targets["labels"], reduction="none", label_smoothing=self.label_smoothing)

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return `scores` [B, C], `labels` and each row's `loss`."""
        return one_label_predictions(self._scores(model, batch), batch.tensors["labels"])

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:  # noqa: ARG002
        """Return loss, accuracy, and macro-averaged precision, recall and F1."""
        return one_label_metrics(predictions)

    def pieces(self, table: TokenTable, row: int, processor: SpeechProcessor) -> Sequence[Piece]:
        """Return how long the sound is."""
        seconds = int(table.dense["samples"][row, 0]) / processor.rate_hz
        return [Piece(f"[{seconds:.2f} s of sound]", supervised=False)]

    def label_text(self, example: Example) -> str:
        """Return the label."""
        return str(example.label)

    def ask(self, columns: Columns) -> Read:
        """Read a sound; any label does, since its loss is not told."""
        audio = columns.need("audio")
        return lambda row: Example(row, media={AUDIO: source_of(row, audio)}, label=self.labels[0])

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:  # noqa: ARG002
        """Return the likeliest `label`, its `score`, and each label's probability as `scores`."""
        return [likeliest(self.labels, row) for row in predictions["scores"].astype(np.float64)]

    def kept(self) -> Mapping[str, Any]:
        """Return the labels."""
        return {"labels": list(self.labels)}

    def _scores(self, model: nn.Module, batch: Batch) -> Tensor:
        with exact_encoder(model, batch):
            return model(**batch.inputs()).logits.float()


def load_processor(files: ModelFiles) -> SpeechProcessor:
    """Read the model's feature extractor."""
    return SpeechProcessor(files, writes=False)


def read(columns: Columns) -> Read:
    """Read a sound and its label."""
    audio, label = columns.need("audio"), columns.need("label")
    return lambda row: Example(row, media={AUDIO: source_of(row, audio)}, label=label_of(row, label))


def build(spec: FineTuneJobSpec, splits: Splits, processor: SpeechProcessor) -> AudioClassification:
    """Find the labels in the training rows."""
    return restore(spec, {"labels": find_labels(splits, least=2)}, processor)


def restore(spec: FineTuneJobSpec, kept: Mapping[str, Any], processor: SpeechProcessor) -> AudioClassification:
    """Return the task for its labels."""
    listener = Listener(processor, masking_of(processor.config, spec.training.seed))
    return AudioClassification(tuple(kept["labels"]), listener, spec.training.label_smoothing)
