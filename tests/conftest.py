import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from support.tiny import save_tiny_model


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
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("vit"), "vit")


@pytest.fixture(scope="session")
def tiny(tiny_bert: Path, tiny_llama: Path, tiny_bart: Path, tiny_t5: Path, tiny_vit: Path) -> Mapping[str, Path]:
    """The tiny model that suits each task."""
    special = {"causal-lm": tiny_llama, "preference": tiny_llama, "translation": tiny_bart, "summarization": tiny_t5}
    special["image-classification"] = tiny_vit
    return defaultdict(lambda: tiny_bert, special)


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """Equal decisions are what equal bits need: on a busy machine two runs may measure different numbers of threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)
