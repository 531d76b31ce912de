import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from support.tiny import save_tiny_model
from support.tiny_mixed import save_mixed_model
from support.tiny_vision import save_detector, save_segmenter

MEDIA_MODELS = ("vit", "wav2vec2", "hubert", "wavlm", "whisper", "ast")
MIXED_MODELS = ("clip", "siglip", "dual", "captioner", "late", "cross-attention")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="session")
def tiny_bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("bart"), "bart")


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("t5"), "t5")


@pytest.fixture(scope="session")
def tiny_media(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Models of images and sounds, and of these and texts, by their kind."""
    mixed = {kind: save_mixed_model(tmp_path_factory.mktemp(kind), kind) for kind in MIXED_MODELS}
    seen = {"yolos": save_detector(tmp_path_factory.mktemp("yolos"), "yolos")}
    seen["segformer"] = save_segmenter(tmp_path_factory.mktemp("segformer"))
    return {kind: save_tiny_model(tmp_path_factory.mktemp(kind), kind) for kind in MEDIA_MODELS} | mixed | seen


@pytest.fixture(scope="session")
def tiny_vit(tiny_media: Mapping[str, Path]) -> Path:
    return tiny_media["vit"]


@pytest.fixture(scope="session")
def tiny(
    tiny_bert: Path, tiny_llama: Path, tiny_bart: Path, tiny_t5: Path, tiny_media: Mapping[str, Path]
) -> Mapping[str, Path]:
    """The tiny model that suits each task."""
    special = {"causal-lm": tiny_llama, "preference": tiny_llama, "translation": tiny_bart, "summarization": tiny_t5}
    special |= {"image-classification": tiny_media["vit"], "audio-classification": tiny_media["hubert"]}
    special |= {"object-detection": tiny_media["yolos"], "semantic-segmentation": tiny_media["segformer"]}
    special |= {"speech-recognition": tiny_media["wav2vec2"], "speech-recognition:whisper": tiny_media["whisper"]}
    special |= dict.fromkeys(("image-captioning", "visual-question-answering"), tiny_media["captioner"])
    special |= {"multimodal-classification": tiny_media["late"]}
    special |= {"multimodal-classification:cross-attention": tiny_media["cross-attention"]}
    special |= {"image-text": tiny_media["clip"], "image-text:siglip": tiny_media["siglip"]}
    return defaultdict(lambda: tiny_bert, special)


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """Equal decisions are what equal bits need: on a busy machine two runs may measure different numbers of threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)
