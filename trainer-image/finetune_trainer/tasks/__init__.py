"""The registry: from a task's name in the manifest to the task."""

from collections.abc import Callable, Mapping

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.split import Splits
from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.tasks import masked_lm, text_classification
from finetune_trainer.tasks.base import Task
from finetune_trainer.tasks.causal_lm import CausalLM
from finetune_trainer.tasks.text_regression import TextRegression

DEFAULT_MASK_PROBABILITY = 0.15


def _classification(spec: FineTuneJobSpec, splits: Splits, tokenizer: Tokenizer) -> Task:
    return text_classification.build(splits, spec.training.label_smoothing, tokenizer.pad_id)


def _regression(_: FineTuneJobSpec, __: Splits, tokenizer: Tokenizer) -> Task:
    return TextRegression(tokenizer.pad_id)


def _causal(spec: FineTuneJobSpec, _: Splits, tokenizer: Tokenizer) -> Task:
    return CausalLM(spec.training.packing is not False, spec.training.label_smoothing, tokenizer.pad_id)


def _masked(spec: FineTuneJobSpec, _: Splits, tokenizer: Tokenizer) -> Task:
    probability = spec.training.mask_probability or DEFAULT_MASK_PROBABILITY
    return masked_lm.build(tokenizer, probability, spec.training.seed, spec.training.label_smoothing)


TASKS: Mapping[str, Callable[[FineTuneJobSpec, Splits, Tokenizer], Task]] = {
    "text-classification": _classification,
    "text-regression": _regression,
    "causal-lm": _causal,
    "masked-lm": _masked,
}


def build_task(spec: FineTuneJobSpec, splits: Splits, tokenizer: Tokenizer) -> Task:
    """Return the task of a manifest, with what it learns from the data: labels, the mask token."""
    return TASKS[spec.task](spec, splits, tokenizer)
