"""A text in another language, judged by BLEU and chrF."""

from functools import partial

from finetune_trainer.tasks import seq2seq, text_metrics

KIND = seq2seq.Kind("translation", "source", "target", ("bleu", "chrf"), text_metrics.translation)
read = KIND.read
build, restore = partial(seq2seq.build, KIND), partial(seq2seq.restore, KIND)
