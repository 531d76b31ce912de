"""The kubelet that plays pods, with a plain Indexed Job of the real Job controller."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from support.waiting import await_that

MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture
def url(namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"


@pytest.fixture
def gang(api: httpx.Client, url: str) -> Callable[..., str]:
    """Makes an Indexed Job whose pods live and die together."""

    def make(nodes: int = 2, **spec: Any) -> str:
        container = {"name": "trainer", "image": "trainer:1"}
        disruption = {"onPodConditions": [{"type": "DisruptionTarget"}], "action": "FailJob"}
        codes = {
            "onExitCodes": {"containerName": "trainer", "operator": "NotIn", "values": [0]},
            "action": "FailJob",
        }
        body = {
            "metadata": {"name": "gang"},
            "spec": {
                "completionMode": "Indexed",
                "completions": nodes,
                "parallelism": nodes,
                "backoffLimit": 0,
                "podReplacementPolicy": "Failed",
                "podFailurePolicy": {"rules": [disruption, codes]},
                "template": {
                    "spec": {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
                },
                **spec,
            },
        }
        api.post(url, json=body).raise_for_status()
        return "gang"

    return make


@pytest.fixture
def reaches(api: httpx.Client, url: str) -> Callable[[str], dict[str, Any]]:
    """Waits for a condition of the Job to be True and returns it."""

    def wait(kind: str) -> dict[str, Any]:
        def find() -> dict[str, Any] | None:
            conditions = api.get(f"{url}/gang").json().get("status", {}).get("conditions", [])
            return next((each for each in conditions if each["type"] == kind and each["status"] == "True"), None)

        return await_that(find, f"condition {kind}")

    return wait


def counts(api: httpx.Client, url: str, **expected: int) -> dict[str, Any]:
    """Wait until the Job's status has these counts."""

    def find() -> dict[str, Any] | None:
        status = api.get(f"{url}/gang").json().get("status", {})
        return status if all(status.get(name, 0) == value for name, value in expected.items()) else None

    return await_that(find, f"counts {expected}")


def test_a_gang_whose_pods_all_end_with_zero_is_complete(api, url, kubelet, gang, reaches):
    job = gang()
    kubelet.run(job, 2)
    counts(api, url, active=2, ready=2)
    kubelet.finish(job, 0, message="told by the trainer")
    kubelet.finish(job, 1)

    reaches("Complete")
    state = kubelet.pods(job)[0]["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (state["exitCode"], state["message"]) == (0, "told by the trainer")
    assert counts(api, url, succeeded=2)["completedIndexes"] == "0,1"


def test_a_gang_is_failed_once_its_last_pod_is_gone(api, url, kubelet, gang, reaches):
    job = gang()
    kubelet.run(job, 2)
    kubelet.finish(job, 1, exit_code=65)

    target = reaches("FailureTarget")
    counts(api, url, terminating=1)
    assert target["reason"] == "PodFailurePolicy"
    assert "exit code 65" in target["message"]
    assert kubelet.reap(job) == 1
    reaches("Failed")


def test_a_suspended_gang_starts_again_with_new_pods(api, url, kubelet, gang, reaches):
    job = gang()
    before = {pod["metadata"]["uid"] for pod in kubelet.run(job, 2)}
    api.patch(f"{url}/{job}", json={"spec": {"suspend": True}}, headers=MERGE).raise_for_status()
    reaches("Suspended")
    counts(api, url, terminating=2)
    kubelet.reap(job)
    counts(api, url, active=0, terminating=0)
    api.patch(f"{url}/{job}", json={"spec": {"suspend": False}}, headers=MERGE).raise_for_status()
    counts(api, url, active=2)
    after = {pod["metadata"]["uid"] for pod in kubelet.run(job, 2)}
    for index in range(2):
        kubelet.finish(job, index)

    reaches("Complete")
    assert not before & after


def test_in_automatic_mode_pods_start_and_deleted_ones_end_by_themselves(api, url, kubelet, gang, reaches):
    kubelet.auto()
    job = gang()
    counts(api, url, active=2, ready=2)
    kubelet.finish(job, 0, exit_code=1)

    reaches("Failed")
    assert counts(api, url, terminating=0, active=0)["failed"] == 2


def test_in_automatic_mode_a_suspension_ends_the_pods(api, url, kubelet, gang):
    kubelet.auto()
    job = gang()
    counts(api, url, ready=2)
    api.patch(f"{url}/{job}", json={"spec": {"suspend": True}}, headers=MERGE).raise_for_status()

    counts(api, url, active=0, terminating=0)
    assert kubelet.pods(job) == []


@pytest.mark.parametrize("reason", ["EvictionByEvictionAPI", "PreemptionByScheduler", "TerminationByKubelet"])
def test_an_evicted_pod_fails_the_gang_by_its_disruption(kubelet, gang, reaches, reason: str):
    job = gang()
    kubelet.run(job, 2)
    kubelet.evict(job, 1, reason)

    assert "DisruptionTarget" in reaches("FailureTarget")["message"]
    kubelet.reap(job)
    reaches("Failed")


def test_an_oom_kill_shows_its_code_and_reason(kubelet, gang, reaches):
    job = gang(1)
    kubelet.oom(job)

    assert "exit code 137" in reaches("Failed")["message"]
    state = kubelet.pods(job)[0]["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (state["exitCode"], state["reason"]) == (137, "OOMKilled")


def test_an_image_that_cannot_be_pulled_leaves_the_pod_pending(api, url, kubelet, gang):
    job = gang(1)
    kubelet.image_pull_backoff(job)
    pod = kubelet.pod(job)

    assert pod["status"]["phase"] == "Pending"
    assert pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ImagePullBackOff"
    counts(api, url, active=1, ready=0)
    kubelet.finish(job)
    counts(api, url, succeeded=1)


def test_an_unschedulable_pod_says_so(kubelet, gang):
    job = gang(1)
    kubelet.unschedulable(job, message="no GPU")
    told = next(each for each in kubelet.pod(job)["status"]["conditions"] if each["type"] == "PodScheduled")

    assert (told["status"], told["reason"], told["message"]) == ("False", "Unschedulable", "no GPU")


def test_a_pod_of_a_lost_node_stays_terminating(api, url, kubelet, gang):
    kubelet.auto()
    job = gang()
    counts(api, url, ready=2)
    node = kubelet.lose_node(job, 1)
    kubelet.finish(job, 0, exit_code=75)

    counts(api, url, terminating=1)
    assert [pod["spec"]["nodeName"] for pod in kubelet.pods(job) if "deletionTimestamp" in pod["metadata"]] == [node]


def test_nodes_keep_their_leases_fresh(api, kubelet, gang):
    node = kubelet.run(gang(1))[0]["spec"]["nodeName"]
    url = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}"
    first = api.get(url).json()["spec"]["renewTime"]

    await_that(lambda: api.get(url).json()["spec"]["renewTime"] != first, "a renewed Lease")
