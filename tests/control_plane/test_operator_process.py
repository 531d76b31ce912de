"""The operator's process under its own account: it starts, works with its permissions alone, and stops."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from finetune_api.names import JOB_NAME_LABEL
from finetune_operator.permissions import PERMISSIONS
from support.faults import to
from support.gang import Kubelet
from support.operator_process import OperatorProcess
from support.proxy import FaultProxy
from support.waiting import await_that

JOB: dict[str, Any] = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "first"},
    "spec": {
        "task": "text-classification",
        "model": {"uri": "package://some_model"},
        "data": {"train": {"uri": "pvc://corpus/train.jsonl"}},
        "output": {"uri": "pvc://models/first"},
    },
}


@pytest.fixture
def url(namespace: str) -> str:
    return f"/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunejobs"


def job_of(api: httpx.Client, namespace: str) -> str:
    """Return the name of the one Job; waits for it."""

    def find() -> str | None:
        items = api.get(f"/apis/batch/v1/namespaces/{namespace}/jobs").json()["items"]
        assert len(items) <= 1, [each["metadata"]["name"] for each in items]
        return items[0]["metadata"]["name"] if items else None

    return await_that(find, "a Job")


def phase(api: httpx.Client, url: str) -> str:
    return api.get(f"{url}/first").json().get("status", {}).get("phase", "")


def test_it_starts_healthy_and_ends_with_code_zero_when_asked(make_operator: Callable[..., OperatorProcess]):
    operator = make_operator()
    operator.start()

    assert operator.health() == (200, "ok\n")
    assert "finetune" in operator.metrics()
    assert operator.rss() > 2**20
    assert operator.cpu_s() > 0
    assert operator.terminate() == 0
    assert operator.health()[0] == 0


def test_a_job_is_started_and_its_gang_runs(
    api: httpx.Client, url: str, namespace: str, kubelet: Kubelet, make_operator: Callable[..., OperatorProcess]
):
    kubelet.auto()
    make_operator().start()
    api.post(url, json=JOB).raise_for_status()
    job = job_of(api, namespace)

    await_that(lambda: phase(api, url) == "Running", "phase Running")
    pods = api.get(f"/api/v1/namespaces/{namespace}/pods", params={"labelSelector": f"{JOB_NAME_LABEL}={job}"})
    assert len(pods.json()["items"]) == 1


def test_a_killed_operator_goes_on_where_it_was(
    api: httpx.Client, url: str, namespace: str, kubelet: Kubelet, make_operator: Callable[..., OperatorProcess]
):
    operator = make_operator()
    operator.start()
    api.post(url, json=JOB).raise_for_status()
    job = job_of(api, namespace)
    operator.restart()
    kubelet.run(job)

    await_that(lambda: phase(api, url) == "Running", "phase Running")
    assert job_of(api, namespace) == job


def test_it_is_unhealthy_while_its_writes_are_refused_and_alive_all_the_same(
    proxy: FaultProxy, make_operator: Callable[..., OperatorProcess]
):
    operator = make_operator("--rehearse-every-s=0.2")
    operator.start()
    proxy.fail(500, to("events", "POST"))
    await_that(lambda: operator.health()[0] == httpx.codes.SERVICE_UNAVAILABLE, "an unhealthy operator")

    assert "takes no writes" in operator.health()[1]
    assert httpx.get(f"{operator.metrics_url}/livez", trust_env=False).is_success
    proxy.heal()
    await_that(lambda: operator.health() == (200, "ok\n"), "a healthy operator")
    assert proxy.writes == []


def test_it_reads_no_secret_and_changes_no_spec():
    granted = {(resource, verb) for rule in PERMISSIONS for resource in rule["resources"] for verb in rule["verbs"]}

    assert {"secrets", "configmaps", "nodes", "pods/exec", "*"} & {resource for resource, _ in granted} == set()
    assert {verb for resource, verb in granted if resource == "finetunejobs"} == {"get", "list", "watch", "delete"}
