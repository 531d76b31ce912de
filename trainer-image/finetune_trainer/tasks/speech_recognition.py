"""Speech to text: by letters for models with a CTC head, by tokens for those with a decoder."""

from collections.abc import Mapping
from typing import Any

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.letters import Letters
from finetune_trainer.data.media import source_of
from finetune_trainer.data.schema import Columns, Example, Read, text_of
from finetune_trainer.data.speech import AUDIO, SpeechProcessor
from finetune_trainer.data.split import Splits
from finetune_trainer.errors import ConfigError
from finetune_trainer.sources import ModelFiles
from finetune_trainer.tasks.speech import Listener
from finetune_trainer.tasks.speech_ctc import SpeechCtc
from finetune_trainer.tasks.speech_masking import masking_of
from finetune_trainer.tasks.speech_seq2seq import SpeechSeq2Seq, without_start


def load_processor(files: ModelFiles) -> SpeechProcessor:
    """Read the model's feature extractor, and its tokenizer or letters."""
    return SpeechProcessor(files, writes=True)


def read(columns: Columns) -> Read:
    """Read a sound and what is said in it."""
    audio, text = columns.need("audio"), columns.need("transcript")
    return lambda row: Example(row, media={AUDIO: source_of(row, audio)}, completion=text_of(row, text))


def build(spec: FineTuneJobSpec, splits: Splits, processor: SpeechProcessor) -> SpeechCtc | SpeechSeq2Seq:
    """Choose between letters and tokens.

    Args:
        spec: The manifest's.
        splits: All sets; letters that the model lacks are those of the training texts.
        processor: The model's.

    Returns:
        The task.

    Raises:
        ConfigError: Letters are smoothed, or the decoder does not say what it begins with.
    """
    texts = [each.completion or "" for each in splits.train]
    tokenizer = processor.tokenizer
    if tokenizer is None:
        if spec.training.label_smoothing:
            raise ConfigError(
                "spec.training.labelSmoothing: CTC has no single right letter per frame", remedy="Remove the field."
            )
        return SpeechCtc(processor.learn_letters(texts), _listener(spec, processor))
    if tokenizer.decoder_start_id is None:
        raise ConfigError(
            "this model does not say what its decoder begins with", remedy="Set decoder_start_token_id in config.json."
        )
    return restore(spec, {"longest": max(map(len, tokenizer.encode(texts, spec.data.max_length)))}, processor)


def restore(spec: FineTuneJobSpec, kept: Mapping[str, Any], processor: SpeechProcessor) -> SpeechCtc | SpeechSeq2Seq:
    """Return the task for its letters, or for the length of its texts."""
    listener, tokenizer = _listener(spec, processor), processor.tokenizer
    if tokenizer is None:
        processor.letters = Letters(**kept["letters"])
        return SpeechCtc(processor.letters, listener)
    start = tokenizer.decoder_start_id
    assert start is not None, "internal: an artifact without what its decoder begins with"
    prompt = without_start(tokenizer.encode([""], None)[0].ids, start)[:-1]
    return SpeechSeq2Seq(tokenizer, listener, start, tuple(prompt), kept["longest"], spec.training.label_smoothing)


def _listener(spec: FineTuneJobSpec, processor: SpeechProcessor) -> Listener:
    return Listener(processor, masking_of(processor.config, spec.training.seed))
