"""A text that says what an image shows, judged by BLEU, ROUGE-L and exact match."""

from collections.abc import Sequence
from functools import partial

from finetune_trainer.tasks import image_to_text, text_metrics


def _compare(told: Sequence[str], right: Sequence[str]) -> dict[str, float]:
    return {
        "bleu": text_metrics.translation(told, right)["bleu"],
        "rougeL": text_metrics.rouge(told, right)["rougeL"],
        **image_to_text.exact_match(told, right),
    }


KIND = image_to_text.Kind("image-captioning", None, "caption", ("bleu", "rougeL", "exact_match"), _compare)
read, load_processor = KIND.read, image_to_text.load_processor
build, restore = partial(image_to_text.build, KIND), partial(image_to_text.restore, KIND)
