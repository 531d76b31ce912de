"""A text in another language, judged by BLEU and chrF."""

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.split import Splits
from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.tasks import text_metrics
from finetune_trainer.tasks.seq2seq import Judge, Seq2Seq, build_seq2seq, reader

read = reader("source", "target")


def build(spec: FineTuneJobSpec, splits: Splits, tokenizer: Tokenizer) -> Seq2Seq:
    """Return the task."""
    return build_seq2seq("translation", Judge(("bleu", "chrf"), text_metrics.translation), spec, splits, tokenizer)
