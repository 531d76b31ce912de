"""What a task is to the rest of the trainer: data in, a loss as a sum, predictions per row, metrics.

Legend: B rows of a batch, T tokens, V vocabulary, C classes, S packed sequences, K supervised tokens.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import Array, TokenTable
from finetune_trainer.data.tokenizer import Tokenizer

IGNORE = -100
Predictions = Mapping[str, Array]
Answer = Mapping[str, Any]
"""What a model says of a row, as fields of JSON values and attachments."""
Count = float | Tensor
EVERYONE, PLACE = "everyone", "place"
HEADS: Mapping[str, str] = {
    "sequence-classification": "AutoModelForSequenceClassification",
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "pretraining": "AutoModelForPreTraining",
    "multiple-choice": "AutoModelForMultipleChoice",
    "encoder": "AutoModel",
    "ctc": "AutoModelForCTC",
    "speech-seq2seq": "AutoModelForSpeechSeq2Seq",
    "audio-classification": "AutoModelForAudioClassification",
    "image-classification": "AutoModelForImageClassification",
    "object-detection": "AutoModelForObjectDetection",
    "semantic-segmentation": "AutoModelForSemanticSegmentation",
    "fusion": "FusionForClassification",
    "image-to-text": "AutoModelForImageTextToText",
}
"""Kinds of heads, and the class of transformers that loads a model with one."""
_INPUTS = (
    "input_ids",
    "attention_mask",
    "position_ids",
    "token_type_ids",
    "decoder_input_ids",
    "input_values",
    "input_features",
    "pixel_values",
    "pixel_mask",
    "audio_attention_mask",
    "audio_frames",
    "present",
)


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """Which of the `HEADS` a task needs, and what it sets in the model's config."""

    kind: str
    config: Mapping[str, Any]
    frozen: tuple[str, ...] = ()
    """Parts of module names whose pretrained weights stay as they are, whatever the method."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that cannot be used, and why."""

    example: Example
    reason: str


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tokenised set: row i of the table is from `examples[i]`, which may give several; `cut` were too long."""

    table: TokenTable
    examples: Sequence[Example]
    refused: Sequence[Refused]
    cut: int


@dataclass(frozen=True, slots=True)
class Attachment:
    """A part of an answer that is a file of its own, such as an image."""

    data: bytes
    suffix: str
    """Ending of the file's name, with its dot."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one pass, and the rows they came from."""

    tensors: Mapping[str, Tensor]
    rows: Rows

    def inputs(self) -> dict[str, Tensor]:
        """Return the tensors that a model's forward takes."""
        return {name: self.tensors[name] for name in _INPUTS if name in self.tensors}

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        if device.type == "cpu":
            return self
        return Batch({name: each.to(device, non_blocking=True) for name, each in self.tensors.items()}, self.rows)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a sample as the model sees it, and whether its tokens are learned."""

    text: str
    supervised: bool


class Task(Protocol):
    """One kind of learning problem."""

    @property
    def name(self) -> str:
        """Key of the registry."""
        ...

    @property
    def head(self) -> HeadSpec:
        """The head that the model needs."""
        ...

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Every metric that `metrics` returns."""
        ...

    def fingerprint(self) -> Mapping[str, Any]:
        """Return what decides the encoding, for the cache's key."""
        ...

    def encode(self, examples: Sequence[Example], processor: Any, max_length: int, /) -> Encoded:
        """Tokenise examples by the model's tokenizer, or by what the task's module loads in its place."""
        ...

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:
        """Pad rows to a batch and decode their media; `epoch` seeds what is random in it, None is for evaluation."""
        ...

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> Count:
        """Return the number of supervised elements of rows: what a loss sum is divided by, element by element."""
        ...

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss in nats, summed over the batch's supervised elements: a scalar, or one sum per count."""
        ...

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return arrays whose first dimension is the batch's rows."""
        ...

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:
        """Return the metrics of all rows together; row i is from `examples[i]`."""
        ...

    def pieces(self, table: TokenTable, row: int, processor: Any, /) -> Sequence[Piece]:
        """Return one row as the model sees it."""
        ...

    def label_text(self, example: Example) -> str:
        """Return what is to be learned from an example, as text."""
        ...


@runtime_checkable
class Coupled(Protocol):
    """A task in whose loss the rows of a step are compared with each other; see `coupling`.

    `loss_sum` finds what all rows of the step bring in the batch as `everyone`, and its own rows' places in it as
    `place`; without them the batch is all there is.
    """

    def embed(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return what each row brings to the others, [B, ...]."""
        ...


@runtime_checkable
class Referred(Protocol):
    """A task in whose loss the model is compared with what it was before training."""

    def refer(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return dense columns for a batch's rows, [B, width]; they are put into the table before training."""
        ...


@runtime_checkable
class Asked(Protocol):
    """A task whose model can be asked, from its artifact: rows without what is to be found, and answers to them."""

    def ask(self, columns: Columns) -> Read:
        """Return what turns a row of these columns into an example; what is to be found may be missing."""
        ...

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:
        """Return the answer for each row of the table; rows of one example have the same."""
        ...


@runtime_checkable
class Responding(Protocol):
    """A task that computes something else when it is asked than when it is judged, such as a text it writes."""

    def respond(self, model: nn.Module, rows: Encoded, which: Rows) -> Predictions:
        """Return arrays whose first dimension are `which` of the rows."""
        ...


@runtime_checkable
class Keeping(Protocol):
    """A task that learned something from the training rows; its module has `restore`."""

    def kept(self) -> Mapping[str, Any]:
        """Return what it learned, as JSON values: labels, items, ranges, never rows."""
        ...


@runtime_checkable
class Restoring(Protocol):
    """A module whose tasks are `Keeping`; those of other modules are built from the manifest alone."""

    def restore(self, spec: FineTuneJobSpec, kept: Mapping[str, Any], processor: Any, /) -> Task:
        """Return the task as it was when its artifact was written."""
        ...


class TaskModule(Protocol):
    """A module of this folder, or any object like it: how rows are read, and how the task is made from them."""

    def read(self, columns: Columns, /) -> Read:
        """Return what turns a row of these columns into an example."""
        ...

    def build(self, spec: FineTuneJobSpec, splits: Splits, processor: Any, /) -> Task:
        """Return the task, with what it learns from the data: labels, the mask token.

        The processor is the model's tokenizer, or what `load_processor` of the module returns, for models that read
        images or sounds.
        """
        ...


def rows_by_example(examples: Sequence[Example]) -> Mapping[int, Sequence[int]]:
    """Return the table's rows of each example by its id, in the order in which examples first appear."""
    rows: dict[int, list[int]] = defaultdict(list)
    for at, example in enumerate(examples):
        rows[id(example)].append(at)
    return rows


def pad(table: TokenTable, column: str, rows: Rows, fill: int) -> Tensor:
    """Return rows of a ragged column as one int64 tensor.

    Args:
        table: The tokenised rows.
        column: Name of a ragged column.
        rows: Row numbers, [B].
        fill: Value right of each row's end.

    Returns:
        [B, T], T the longest of the rows.
    """
    return padded([table.row(column, int(row)) for row in rows], fill)[0]


def padded(rows: Sequence[Array], fill: int) -> tuple[Tensor, Tensor]:
    """Return rows as one tensor, and 1 where it is no padding, both [B, longest] int64."""
    lengths = np.array([len(row) for row in rows])
    out = np.full((len(rows), int(lengths.max())), fill, dtype=np.int64)
    for at, row in enumerate(rows):
        out[at, : len(row)] = row
    mask = (np.arange(out.shape[1])[None, :] < lengths[:, None]).astype(np.int64)
    return torch.from_numpy(out), torch.from_numpy(mask)


def attention_mask(table: TokenTable, rows: Rows) -> Tensor | None:
    """Return 1 where a token is, 0 where padding is, [B, T] int64; None when nothing is padded."""
    lengths = table.lengths[rows]
    longest = int(lengths.max())
    if int(lengths.min()) == longest:
        return None
    return torch.from_numpy((np.arange(longest)[None, :] < lengths[:, None]).astype(np.int64))


def dense(table: TokenTable, column: str, rows: Rows) -> npt.NDArray[np.float32]:
    """Return rows of a dense column, [B, width]."""
    return np.asarray(table.dense[column][rows], dtype=np.float32)


def marked_pieces(ids: Array, marks: Array, tokenizer: Tokenizer) -> Sequence[Piece]:
    """Return a text cut where marks begin or end; a mark is 1 where a token is learned."""
    edges = np.flatnonzero(np.diff(marks)) + 1
    parts = zip(np.split(ids, edges), np.split(marks, edges), strict=True)
    return [Piece(tokenizer.decode(part.tolist()), supervised=bool(each[0])) for part, each in parts]


def objects(values: Sequence[Any]) -> Array:
    """Return values of any kind as an array with one element each, as predictions are."""
    out = np.empty(len(values), dtype=object)
    for at, value in enumerate(values):
        out[at] = value
    return out
