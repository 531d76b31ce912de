"""A short text that says what a long one does, judged by ROUGE."""

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.split import Splits
from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.tasks import text_metrics
from finetune_trainer.tasks.seq2seq import Judge, Seq2Seq, build_seq2seq, reader

read = reader("text", "summary")


def build(spec: FineTuneJobSpec, splits: Splits, tokenizer: Tokenizer) -> Seq2Seq:
    """Return the task."""
    judge = Judge(("rouge1", "rouge2", "rougeL"), text_metrics.rouge)
    return build_seq2seq("summarization", judge, spec, splits, tokenizer)
