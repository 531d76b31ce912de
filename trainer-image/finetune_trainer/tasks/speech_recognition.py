"""Speech to text: by letters for models with a CTC head, by tokens for those with a decoder."""

from finetune_api.spec import FineTuneJobSpec
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
    listener = Listener(processor, masking_of(processor.config, spec.training.seed))
    smoothing = spec.training.label_smoothing
    tokenizer = processor.tokenizer
    if tokenizer is None:
        if smoothing:
            raise ConfigError(
                "spec.training.labelSmoothing: CTC has no single right letter per frame", remedy="Remove the field."
            )
        return SpeechCtc(processor.learn_letters(texts), listener)
    start = tokenizer.decoder_start_id
    if start is None:
        raise ConfigError(
            "this model does not say what its decoder begins with", remedy="Set decoder_start_token_id in config.json."
        )
    frame = without_start(tokenizer.encode([""], None)[0].ids, start)
    longest = max(map(len, tokenizer.encode(texts, spec.data.max_length)))
    return SpeechSeq2Seq(tokenizer, listener, start, tuple(frame[:-1]), longest, smoothing)
