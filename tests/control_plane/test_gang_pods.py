"""The children of a stored FineTuneJob, made for real: the Job controller's pods, and their end with the owner."""

import copy
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from finetune_api import names
from finetune_api.validation import validate_manifest
from finetune_operator.plan import Attempt, Plan, plan
from golden.cases import COLLECTIONS, SETTINGS, children, manifest_of

JOBS = "/apis/finetune.dev/v1alpha1/namespaces/{}/finetunejobs"
# The garbage collector looks for new kinds, such as ours, every 30 s.
WAIT_S = 75.0


@pytest.fixture
def restricted(api: httpx.Client, namespace: str) -> str:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    headers = {"Content-Type": "application/merge-patch+json"}
    url = f"/api/v1/namespaces/{namespace}"
    api.patch(url, json={"metadata": {"labels": labels}}, headers=headers).raise_for_status()
    await_true(lambda: api.get(f"{url}/serviceaccounts/default").status_code == httpx.codes.OK)
    return namespace


def await_true(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < until, "did not come true"
        time.sleep(0.05)


def made(api: httpx.Client, namespace: str, case: str) -> Plan:
    """Store a golden manifest and post the children of its first attempt, for the cluster's own Job controller."""
    document = copy.deepcopy(manifest_of(case))
    document["spec"].get("scheduling", {}).pop("managedBy", None)
    document["metadata"] = {"name": document["metadata"]["name"], "namespace": namespace}
    answer = api.post(JOBS.format(namespace), json=document, params={"fieldValidation": "Strict"})
    assert answer.status_code == httpx.codes.CREATED, answer.text
    planned = plan(validate_manifest(answer.json()), Attempt(1), SETTINGS)
    for child in children(planned):
        api.post(COLLECTIONS[child["kind"]].format(namespace), json=child).raise_for_status()
    return planned


def pods_of(api: httpx.Client, namespace: str) -> list[dict[str, Any]]:
    return sorted(
        api.get(COLLECTIONS["Pod"].format(namespace)).json()["items"], key=lambda pod: pod["metadata"]["name"]
    )


def test_a_gang_has_one_pod_per_node_with_the_host_name_at_which_its_peers_look(api: httpx.Client, restricted: str):
    planned = made(api, restricted, "gang")
    await_true(lambda: len(pods_of(api, restricted)) == 2)
    assert planned.service is not None

    job, service = planned.job["metadata"]["name"], planned.service["metadata"]
    for index, pod in enumerate(pods_of(api, restricted)):
        assert pod["spec"]["hostname"] == f"{job}-{index}"
        assert pod["spec"]["subdomain"] == service["name"]
        assert planned.service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        assert names.ANNOTATION_RUN_CONFIG in pod["metadata"]["annotations"]
        assert "JOB_COMPLETION_INDEX" in {each["name"] for each in pod["spec"]["containers"][0]["env"]}


def test_a_job_with_a_queue_makes_no_pod_before_it_is_admitted(api: httpx.Client, restricted: str):
    planned = made(api, restricted, "queue")
    url = f"{COLLECTIONS['Job'].format(restricted)}/{planned.job['metadata']['name']}"

    def conditions() -> list[str]:
        return [each["type"] for each in api.get(url).json().get("status", {}).get("conditions", [])]

    await_true(lambda: "Suspended" in conditions())

    assert pods_of(api, restricted) == []


def test_deleting_the_job_deletes_all_that_was_made_for_it(api: httpx.Client, restricted: str):
    planned = made(api, restricted, "gang")
    await_true(lambda: len(pods_of(api, restricted)) == 2)
    api.delete(f"{JOBS.format(restricted)}/chat").raise_for_status()
    urls = [f"{COLLECTIONS[each['kind']].format(restricted)}/{each['metadata']['name']}" for each in children(planned)]

    await_true(lambda: all(api.get(url).status_code == httpx.codes.NOT_FOUND for url in urls))
    await_true(lambda: pods_of(api, restricted) == [])
