"""The table of tasks leaves nothing out, and tells what beats the trivial answer."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from finetune_api.spec import FineTuneJobSpec

ROOT = Path(__file__).resolve().parents[2]
# The first starts from what domain-pretrain hands over, the second is many runs: no rows of their own.
FOLLOWS = {"movie-sentiment-transfer", "movie-sentiment-sweep"}


@pytest.fixture(scope="module")
def table() -> ModuleType:
    place = importlib.util.spec_from_file_location("task_table", ROOT / "bench" / "task_table.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    sys.modules["task_table"] = module
    place.loader.exec_module(module)
    return module


def test_every_example_has_a_row(table: ModuleType):
    examples = {path.stem for path in (ROOT / "examples").glob("*.yaml")}
    assert {each.example for each in table.ENTRIES} == examples - FOLLOWS


def test_every_task_of_the_contract_has_an_example(table: ModuleType):
    tasks = {
        yaml.safe_load((ROOT / "examples" / f"{each.example}.yaml").read_text())["spec"]["task"]
        for each in table.ENTRIES
    }
    (known,) = (each for each in FineTuneJobSpec.model_json_schema()["properties"].items() if each[0] == "task")
    assert tasks == set(known[1]["enum"])


@pytest.mark.parametrize(("metric", "after", "holds"), [("accuracy", 0.9, True), ("wer", 0.9, False)])
def test_a_gain_is_more_of_an_accuracy_and_less_of_an_error_rate(
    table: ModuleType, monkeypatch: pytest.MonkeyPatch, metric: str, after: float, holds: bool
):
    entry = table.Entry("digits", "", "", metric, "a guess", 0.5, 0.3)

    def figure(_entry: object, changes: Sequence[str]) -> tuple[float, float]:
        return (0.4, 1.0) if changes else (after, 1.0)

    monkeypatch.setattr(table, "figure", figure)
    assert table.measured(entry).holds is holds
