"""The registry: from a task's name in the manifest to the module that reads its rows and builds it."""

from collections.abc import Mapping
from typing import Any

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.processor import Processor
from finetune_trainer.data.split import Splits
from finetune_trainer.data.tokenizer import load_tokenizer
from finetune_trainer.sources import ModelFiles
from finetune_trainer.tasks import (
    audio_classification,
    causal_lm,
    embedding,
    image_captioning,
    image_classification,
    image_text,
    masked_lm,
    multimodal_classification,
    multiple_choice,
    next_sentence,
    object_detection,
    preference,
    question_answering,
    recommendation,
    semantic_segmentation,
    speech_recognition,
    summarization,
    text_classification,
    text_regression,
    token_classification,
    translation,
    visual_question_answering,
)
from finetune_trainer.tasks.base import Restoring, Task, TaskModule

TASKS: dict[str, TaskModule] = {
    "text-classification": text_classification,
    "text-regression": text_regression,
    "token-classification": token_classification,
    "question-answering": question_answering,
    "multiple-choice": multiple_choice,
    "embedding": embedding,
    "translation": translation,
    "summarization": summarization,
    "causal-lm": causal_lm,
    "preference": preference,
    "masked-lm": masked_lm,
    "next-sentence-prediction": next_sentence,
    "recommendation": recommendation,
    "image-classification": image_classification,
    "object-detection": object_detection,
    "semantic-segmentation": semantic_segmentation,
    "speech-recognition": speech_recognition,
    "audio-classification": audio_classification,
    "image-text": image_text,
    "multimodal-classification": multimodal_classification,
    "image-captioning": image_captioning,
    "visual-question-answering": visual_question_answering,
}


def load_processor(task: str, files: ModelFiles) -> Processor:
    """Return what turns rows into the model's input: what the task's module loads, else the model's tokenizer."""
    load = getattr(TASKS[task], "load_processor", None)
    return load(files) if load else load_tokenizer(files.folder, files.gguf_file)


def build_task(spec: FineTuneJobSpec, splits: Splits, processor: Processor) -> Task:
    """Return the task of a manifest, with what it learns from the data: labels, the mask token."""
    return TASKS[spec.task].build(spec, splits, processor)


def restore_task(spec: FineTuneJobSpec, kept: Mapping[str, Any], processor: Processor) -> Task:
    """Return the task of an artifact, from the manifest and what the task learned from rows that are no longer here."""
    module = TASKS[spec.task]
    if isinstance(module, Restoring):
        return module.restore(spec, kept, processor)
    return module.build(spec, Splits([], [], []), processor)
