"""A short text that says what a long one does, judged by ROUGE."""

from functools import partial

from finetune_trainer.tasks import seq2seq, text_metrics

KIND = seq2seq.Kind("summarization", "text", "summary", ("rouge1", "rouge2", "rougeL"), text_metrics.rouge)
read = KIND.read
build, restore = partial(seq2seq.build, KIND), partial(seq2seq.restore, KIND)
