"""The answer to a question about an image, written behind the question, judged by exact match."""

from functools import partial

from finetune_trainer.tasks import image_to_text

KIND = image_to_text.Kind(
    "visual-question-answering", "question", "answer", ("exact_match",), image_to_text.exact_match
)
read, load_processor = KIND.read, image_to_text.load_processor
build, restore = partial(image_to_text.build, KIND), partial(image_to_text.restore, KIND)
