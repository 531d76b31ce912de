"""Speech to text by an encoder and a decoder: Whisper. Texts are written as translation writes them, by beam search.

The encoder always reads a window of the same length, so a row does not depend on those beside it.

Legend: B rows, K target tokens of all rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from finetune_trainer.data.media import source_of
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read
from finetune_trainer.data.speech import AUDIO, SpeechProcessor
from finetune_trainer.data.table import TokenTable
from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.tasks.base import Answer, Batch, Encoded, HeadSpec, Piece, Predictions, Refused, objects
from finetune_trainer.tasks.seq2seq import BEAMS, decoder_side
from finetune_trainer.tasks.speech import TARGET, Listener, Sound, speech_table, target_of
from finetune_trainer.tasks.speech_metrics import ERROR_RATES, error_rates
from finetune_trainer.tasks.token_head import TokenHead, token_predictions


@dataclass(frozen=True)
class SpeechSeq2Seq:
    """Cross-entropy over the text's tokens."""

    tokenizer: Tokenizer
    listener: Listener
    start_id: int
    prompt: tuple[int, ...]
    """What the tokenizer puts before every text: that no times are written, for example."""
    longest: int
    """Most tokens that are written."""
    label_smoothing: float
    name: str = "speech-recognition"
    metric_names: tuple[str, ...] = ("loss", *ERROR_RATES)
    head: HeadSpec = field(
        default_factory=lambda: HeadSpec("speech-seq2seq", {"apply_spec_augment": False, "use_cache": True})
    )
    scorer: TokenHead = field(default_factory=lambda: TokenHead(("proj_out", "lm_head"), {"use_cache": False}))

    def fingerprint(self) -> Mapping[str, Any]:
        """The tokenizer is part of the processor."""
        return {"kind": "seq2seq", "start": self.start_id}

    def encode(self, examples: Sequence[Example], processor: SpeechProcessor, max_length: int) -> Encoded:
        """Tokenise the texts; sounds longer than the window are refused, since their text is longer too."""
        found = self.tokenizer.encode([each.completion or "" for each in examples], max_length) if examples else []
        rows: list[Sound] = []
        refused: list[Refused] = []
        for example, tokens in zip(examples, found, strict=True):
            samples = example.media[AUDIO].shape[0]
            most = processor.window or samples
            if samples > most:
                long, window = (f"{count / processor.rate_hz:.1f} s" for count in (samples, most))
                refused.append(Refused(example, f"a sound of {long}, the model hears {window}"))
            else:
                target = without_start(tokens.ids, self.start_id)
                rows.append(Sound(example, processor.frames(samples) + len(target), samples, target))
        return speech_table(rows, refused, sum(bool(each.overflowing) for each in found), {})

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:
        """Return the sounds, and the decoder's side as translation has it."""
        side = decoder_side([target_of(table, int(row)) for row in rows], self.start_id, self.tokenizer.pad_id)
        return Batch({**self.listener.listen(table, rows, epoch), **side}, rows)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:  # noqa: ARG002
        """Target tokens."""
        return float((table.dense[TARGET][rows] >= 0).sum())

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy over the text's tokens."""
        return self.scorer.losses(model, batch, self.label_smoothing)[0].sum()

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return each row's summed `loss`, its `tokens`, how many are `right`, and the `text` written for it."""
        losses_K, right_K = self.scorer.losses(model, batch, 0.0)
        return {**token_predictions(losses_K, right_K, batch), "text": objects(self._write(model, batch))}

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:
        """Return the loss per token, and the error rates of words and characters."""
        loss = float(predictions["loss"].sum() / predictions["tokens"].sum())
        return {"loss": loss, **error_rates(list(predictions["text"]), [each.completion or "" for each in examples])}

    def pieces(self, table: TokenTable, row: int, processor: SpeechProcessor) -> Sequence[Piece]:  # noqa: ARG002
        """Return the text with its special tokens."""
        return [Piece(self.tokenizer.decode(target_of(table, row).tolist()), supervised=True)]

    def label_text(self, example: Example) -> str:
        """Return the text."""
        return example.completion or ""

    def ask(self, columns: Columns) -> Read:
        """Read a sound."""
        audio = columns.need("audio")
        return lambda row: Example(row, media={AUDIO: source_of(row, audio)})

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:  # noqa: ARG002
        """Return the `text`."""
        return [{"text": str(each)} for each in predictions["text"]]

    def kept(self) -> Mapping[str, Any]:
        """Return how long a text may be."""
        return {"longest": self.longest}

    def _write(self, model: nn.Module, batch: Batch) -> list[str]:
        from transformers import GenerationConfig, GenerationMixin  # noqa: PLC0415 - loaded with the model

        writer: Any = model
        plain: Any = GenerationMixin
        given: Any = writer.generation_config
        settings = GenerationConfig(
            num_beams=BEAMS,
            do_sample=False,
            max_new_tokens=self.longest,
            decoder_start_token_id=self.start_id,
            eos_token_id=given.eos_token_id,
            pad_token_id=self.tokenizer.pad_id,
            suppress_tokens=given.suppress_tokens,
            begin_suppress_tokens=given.begin_suppress_tokens,
        )
        sounds = batch.tensors[self.listener.processor.input_name]
        prompt = torch.tensor([[self.start_id, *self.prompt]] * len(sounds), device=sounds.device)
        # Whisper's own `generate` cuts long sounds and guesses languages; a row here is one window.
        ids_BT = plain.generate(writer, sounds, generation_config=settings, decoder_input_ids=prompt)
        return [self.tokenizer.decode(row, special=False).strip() for row in ids_BT.tolist()]


def without_start(ids: Sequence[int], start_id: int) -> Sequence[int]:
    """Return tokens without what the decoder begins with anyway."""
    return ids[1:] if ids[:1] == [start_id] else ids
