"""Speech to text by letters: CTC (Graves et al. 2006) over wav2vec2 and its relatives.

The loss is minus the log-probability of a row's letters over all ways to lay them onto its frames, divided by the
letters of the whole batch. A model writes its best letter of each frame (greedy decoding).

Legend: B rows, T frames, V letters, L letters of the longest row.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune_trainer.data.letters import Letters
from finetune_trainer.data.media import source_of
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read
from finetune_trainer.data.speech import AUDIO, SpeechProcessor
from finetune_trainer.data.table import TokenTable
from finetune_trainer.objectives import ctc_losses
from finetune_trainer.tasks.base import Answer, Batch, Encoded, HeadSpec, Piece, Predictions, Refused, objects
from finetune_trainer.tasks.speech import TARGET, Listener, Sound, speech_table, target_of
from finetune_trainer.tasks.speech_encoder import exact_encoder
from finetune_trainer.tasks.speech_metrics import ERROR_RATES, error_rates


@dataclass(frozen=True)
class SpeechCtc:
    """CTC over `letters`."""

    letters: Letters
    listener: Listener
    name: str = "speech-recognition"
    metric_names: tuple[str, ...] = ("loss", *ERROR_RATES)

    @property
    def head(self) -> HeadSpec:
        """One output per letter; the convolutions of a pretrained model stay as they are."""
        settings = {"vocab_size": len(self.letters.numbers), "pad_token_id": self.letters.blank_id}
        # Whole layers are never left out: a row's loss would depend on the pass that it is in.
        return HeadSpec("ctc", {**settings, "layerdrop": 0.0, "ctc_loss_reduction": "sum"}, ("feature_extractor",))

    def fingerprint(self) -> Mapping[str, Any]:
        """The letters are part of the processor."""
        return {"kind": "ctc"}

    def encode(self, examples: Sequence[Example], processor: SpeechProcessor, max_length: int) -> Encoded:
        """Spell the texts; sounds that are too long, or too short for their letters, are refused."""
        rows: list[Sound] = []
        refused: list[Refused] = []
        for example in examples:
            samples = example.media[AUDIO].shape[0]
            frames, target = processor.frames(samples), self.letters.encode(example.completion or "")
            needed = len(target) + sum(one == other for one, other in itertools.pairwise(target))
            if frames > max_length:
                refused.append(Refused(example, f"a sound of {frames} frames, {max_length} are the most"))
            elif frames < needed:
                refused.append(Refused(example, f"a sound of {frames} frames for a text that needs {needed}"))
            else:
                rows.append(Sound(example, frames, samples, target))
        return speech_table(rows, refused, 0, {})

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:
        """Return the sounds, and their letters `target` [B, L] with `letters` [B], how many there are."""
        target = np.maximum(table.dense[TARGET][rows], 0).astype(np.int64)
        counts = [len(target_of(table, int(row))) for row in rows]
        tensors = self.listener.listen(table, rows, epoch)
        return Batch({**tensors, "target": torch.from_numpy(target), "letters": torch.tensor(counts)}, rows)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:  # noqa: ARG002
        """Letters."""
        return float((table.dense[TARGET][rows] >= 0).sum())

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Minus the log-probability of the rows' letters."""
        return self._losses(self._scores(model, batch), batch).sum()

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return each row's summed `loss`, its `letters`, and the `text` written for it."""
        logits_BTV = self._scores(model, batch)
        best_BT = logits_BTV.argmax(dim=-1).tolist()
        counts = batch.tensors["frames"].tolist()
        texts = [self.letters.decode(row[:count]) for row, count in zip(best_BT, counts, strict=True)]
        losses = self._losses(logits_BTV, batch).double().cpu().numpy()
        return {"loss": losses, "letters": batch.tensors["letters"].cpu().numpy(), "text": objects(texts)}

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:
        """Return the loss per letter, and the error rates of words and characters."""
        gold = [self.letters.spelled(each.completion or "") for each in examples]
        loss = float(predictions["loss"].sum() / predictions["letters"].sum())
        return {"loss": loss, **error_rates(list(predictions["text"]), gold)}

    def pieces(self, table: TokenTable, row: int, processor: SpeechProcessor) -> Sequence[Piece]:  # noqa: ARG002
        """Return the text."""
        names = {number: name for name, number in self.letters.numbers.items()}
        spelled = "".join(names[number] for number in target_of(table, row).tolist())
        return [Piece(spelled.replace(self.letters.space, " "), supervised=True)]

    def label_text(self, example: Example) -> str:
        """Return the text."""
        return example.completion or ""

    def ask(self, columns: Columns) -> Read:
        """Read a sound; any letter does for its text, since its loss is not told."""
        audio = columns.need("audio")
        return lambda row: Example(row, media={AUDIO: source_of(row, audio)}, completion="?")

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:  # noqa: ARG002
        """Return the `text`."""
        return [{"text": str(each)} for each in predictions["text"]]

    def kept(self) -> Mapping[str, Any]:
        """Return the letters."""
        return {"letters": asdict(self.letters)}

    def _scores(self, model: nn.Module, batch: Batch) -> Tensor:
        with exact_encoder(model, batch):
            return model(**batch.inputs()).logits

    def _losses(self, logits_BTV: Tensor, batch: Batch) -> Tensor:
        frames, target, counts = (batch.tensors[name] for name in ("frames", "target", "letters"))
        return ctc_losses(logits_BTV, frames, target, counts, self.letters.blank_id)
