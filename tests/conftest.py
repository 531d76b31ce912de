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
def tiny(tiny_bert: Path, tiny_llama: Path) -> dict[str, Path]:
    """The tiny model that suits each task."""
    return dict.fromkeys(("text-classification", "text-regression", "masked-lm"), tiny_bert) | {"causal-lm": tiny_llama}
