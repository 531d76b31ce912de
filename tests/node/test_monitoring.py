"""A real Prometheus scrapes operator and trainer as the chart's monitors say, and an alert fires on a frozen rank."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from finetune_api.names import METRICS_PORT
from node.machine import Service
from node.submitted import TRAINING
from node.world import World
from support.boards import asked
from support.helm import CHART
from support.waiting import await_that

pytestmark = pytest.mark.e2e
_PORT = 9090
_ALERT = "FineTuneJobStalled"
_CHOICES = {"namespace": TRAINING, "name": "frozen", "__rate_interval": "15s", "__range": "10m"}


class Prometheus:
    """Prometheus in the machine of the node; targets are told to it by hand, since Debian's knows no Kubernetes."""

    def __init__(self, world: World, folder: Path) -> None:
        folder.mkdir()
        self._world, self._targets = world, folder / "targets.json"
        self._targets.write_text("[]")
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(_quick_rules(folder))],
            "scrape_configs": [
                {
                    "job_name": "finetune",
                    # As the chart's ServiceMonitor says.
                    "honor_labels": True,
                    "file_sd_configs": [{"files": [str(self._targets)], "refresh_interval": "1s"}],
                }
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        machine = world.node.machine
        address = f"{machine.address}:{_PORT}"
        flags = (f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}")
        self._service = Service(machine, "prometheus", ("prometheus", *flags, f"--web.listen-address={address}"))
        self._url = f"http://{address}"

    def start(self) -> None:
        self._service.start()
        await_that(self._ready, "Prometheus")

    def stop(self) -> None:
        self._service.kill()

    def scrape(self, job: str) -> None:
        """Scrape the operator, and rank 0 of a job with the label that the chart's PodMonitor gives it."""
        (operator,) = self._world.operator_pods()
        (trainer,) = self._world.list("pods", f"finetune.dev/job={job}")
        targets = [
            {"targets": [f"{operator['status']['podIP']}:8080"], "labels": {"pod": "operator"}},
            {
                "targets": [f"{trainer['status']['podIP']}:{METRICS_PORT}"],
                "labels": {"pod": "trainer", "name": job, "namespace": TRAINING},
            },
        ]
        aside = self._targets.with_suffix(".aside")
        aside.write_text(json.dumps(targets))
        aside.replace(self._targets)

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self._url}/api/v1/query", params={"query": expression}, trust_env=False)
        return answer.raise_for_status().json()["data"]["result"]

    def alerts(self) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self._url}/api/v1/alerts", trust_env=False).raise_for_status()
        return [each for each in answer.json()["data"]["alerts"] if each["state"] == "firing"]

    def _ready(self) -> bool:
        assert self._service.is_running, self._service.tail()
        try:
            return httpx.get(f"{self._url}/-/ready", trust_env=False).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False


@pytest.fixture
def prometheus(world: World, tmp_path: Path) -> Iterator[Prometheus]:
    prometheus = Prometheus(world, tmp_path / "prometheus")
    prometheus.start()
    yield prometheus
    prometheus.stop()


def test_prometheus_scrapes_both_fills_the_jobs_board_and_fires_an_alert_while_a_rank_is_frozen(
    world: World, prometheus: Prometheus
):
    often = {"data__validation": {"fraction": 0.02}, "evaluation__every": "5steps"}
    job = world.submit("frozen", training__maxSteps=2000, **often)
    job.await_step(1)
    prometheus.scrape("frozen")

    for query in asked("job", _CHOICES):
        if "GPU" not in query.panel["title"] and query.panel["title"] != "Last failure":
            await_that(lambda expr=query.expr: prometheus.query(expr), f"data of {query}")
    assert not _stalled(prometheus)

    rank = job.rank_pid()
    os.kill(rank, signal.SIGSTOP)
    await_that(lambda: _stalled(prometheus), f"{_ALERT} to fire", 120)
    os.kill(rank, signal.SIGCONT)
    await_that(lambda: not _stalled(prometheus), f"{_ALERT} to end", 120)
    job.delete()


def _stalled(prometheus: Prometheus) -> list[dict[str, Any]]:
    return [each for each in prometheus.alerts() if each["labels"]["alertname"] == _ALERT]


def _quick_rules(folder: Path) -> Path:
    """Return the chart's rules with seconds where the stalled alert has minutes; the expressions are the chart's."""
    document = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    for group in document["groups"]:
        for rule in group["rules"]:
            if rule["alert"] == _ALERT:
                rule["expr"] = rule["expr"].replace("600", "20")
                rule["for"] = "1s"
    file = folder / "alerts.yaml"
    file.write_text(yaml.safe_dump(document))
    return file
