"""Every panel can be read, and every query of every board returns data of a real run.

Real here: the operator's process against a real control plane, a training run with its posts and its /metrics, and
Prometheus that scrapes both. Not real: the pods of other jobs are played, and what GPUs say is made up, since there is
none here; such samples may only be seen by panels whose title says GPU.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from finetune_api.exit_codes import Reason, exit_code
from support.boards import FILES, METRIC, Asked, asked, board, chosen, panels
from support.cluster import ROOT, NoGo
from support.observed import ALERTS, NAME, NAMESPACE, Observed, observed
from support.prometheus import NoPrometheus
from support.tiny import manifest, write_rows
from support.waiting import await_that

CHOICES = {"namespace": NAMESPACE, "name": NAME, "__rate_interval": "15s", "__range": "10m"}
NAMES = [path.stem for path in FILES]
REFERENCE = ROOT / "docs" / "reference" / "metrics.md"
PANELS = [(name, panel) for name in NAMES for panel in panels(board(name))]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("observed")
    sections = {
        "data": {"validation": {"fraction": 0.2}},
        # Longer than any test waits: the run is ended by a signal.
        "training": {"maxSteps": 1_000_000, "learningRate": 0.0001},
        "evaluation": {"every": "100steps"},
        "checkpoint": {"every": "2s"},
    }
    document = manifest("text-classification", tiny_bert, write_rows(folder, "text-classification"), **sections)
    try:
        with observed(folder, document) as found:
            yield found
    except (NoGo, NoPrometheus) as error:
        pytest.skip(f"tier left out: {error}")


def exported(text: str) -> set[str]:
    """Return the names of the families that a program tells."""
    families = text_string_to_metric_families(text)
    return {f"{each.name}_total" if each.type == "counter" else each.name for each in families}


def family(name: str) -> str:
    return re.sub(r"(?<=_seconds)_(bucket|count|sum)$", "", name)


def used() -> set[str]:
    """Return every metric that a board or an alert asks for."""
    asked_for = [target["expr"] for _, panel in PANELS for target in panel["targets"]]
    alerts = [rule["expr"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    return {family(name) for expr in (*asked_for, *alerts) for name in METRIC.findall(expr)}


@pytest.mark.parametrize(("name", "panel"), PANELS, ids=[f"{name}-{panel['title']}" for name, panel in PANELS])
def test_a_panel_says_what_it_shows_in_which_unit_and_asks_the_chosen_source(name: str, panel: dict[str, Any]):
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert [panel["datasource"], *(target["datasource"] for target in panel["targets"])] == [source] * (
        1 + len(panel["targets"])
    )
    assert next(each["type"] for each in board(name)["templating"]["list"]) == "datasource"


def test_boards_have_uids_of_their_own_and_no_two_panels_of_a_board_share_a_place():
    assert len({board(name)["uid"] for name in NAMES}) == len(NAMES) == 3
    for name in NAMES:
        places = [tuple(sorted(panel["gridPos"].items())) for panel in panels(board(name))]
        assert len(set(places)) == len(places)


@pytest.mark.parametrize("name", NAMES)
def test_every_query_of_a_board_returns_data_of_a_real_run(watched: Observed, name: str):
    queries = list(asked(name, CHOICES))
    watched.check_training()

    assert queries
    for query in queries:
        await_data(watched, query)


def await_data(watched: Observed, query: Asked) -> None:
    await_that(lambda: watched.prometheus.now(query.expr), f"data of {query}")


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_of_a_board_has_values(watched: Observed, name: str):
    variables = [each for each in board(name)["templating"]["list"] if each["type"] == "query"]
    for variable in variables:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
        assert found, variable["query"]
        values = watched.prometheus.now(f"count by ({found[2]}) ({chosen(found[1], CHOICES)})")

        assert CHOICES[variable["name"]] in {each["metric"][found[2]] for each in values}


def test_made_up_samples_are_seen_by_panels_that_say_gpu_alone():
    made_up = {panel["title"] for _, panel in PANELS if "finetune_gpu" in str(panel["targets"])}

    assert made_up
    assert not [title for title in made_up if "GPU" not in title]


def test_every_rule_can_be_evaluated_on_the_series_of_a_real_run(watched: Observed):
    await_that(lambda: all(rule["health"] == "ok" for rule in watched.prometheus.rules()), "every rule to be evaluated")
    states = {rule["name"]: rule["state"] for rule in watched.prometheus.rules()}

    assert states["FineTuneJobNonFinite"] == "firing"
    assert states["FineTuneOperatorDown"] == "inactive"
    assert states["FineTuneJobStalled"] == "inactive"


def test_every_metric_of_boards_and_alerts_is_told_by_the_real_programs(watched: Observed):
    told = exported(watched.world.operator.metrics()) | exported(httpx.get(watched.trainer_url, trust_env=False).text)

    assert used() - told == set()


def test_every_metric_that_is_told_stands_in_the_reference_and_no_other(watched: Observed):
    told = exported(watched.world.operator.metrics()) | exported(httpx.get(watched.trainer_url, trust_env=False).text)
    documented = set(re.findall(r"^\| `(\w+)`", REFERENCE.read_text(), re.MULTILINE))

    assert documented == told


def test_each_wait_start_and_run_is_counted_once(watched: Observed):
    await_that(lambda: watched.prometheus.now("finetune_operator_init_seconds_count == 1"), "the first step")
    counts = {
        series: {each["metric"].get("phase", ""): float(each["value"][1]) for each in watched.prometheus.now(series)}
        for series in ("finetune_operator_queue_seconds_count", "finetune_operator_train_seconds_count")
    }

    # Three jobs ran, one of them twice; one is Complete, one Failed.
    assert counts["finetune_operator_queue_seconds_count"] == {"": 4}
    assert counts["finetune_operator_train_seconds_count"] == {"Complete": 1, "Failed": 1}


# The last test: it ends the run.
def test_the_last_values_are_told_after_the_trainer_is_gone(watched: Observed):
    mine = f'namespace="{NAMESPACE}",name="{NAME}"'
    code = watched.end_training()
    await_that(lambda: not watched.prometheus.now(f"finetune_train_loss{{{mine}}}"), "the trainer's series to end")

    assert code == exit_code(Reason.PREEMPTED)
    for series in ("loss", "gradient_norm", "learning_rate", "checkpoint_step"):
        assert watched.prometheus.now(f"finetune_job_{series}{{{mine}}}"), series
    assert watched.prometheus.now(f'finetune_job_metric{{{mine},split="validation"}}')
