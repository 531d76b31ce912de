"""The golden children on a real API server: every object is accepted, and no pod breaks the restricted level."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from finetune_operator.plan import Attempt, plan
from golden.cases import CASES, COLLECTIONS, SETTINGS, children, job_of, plan_of

STRICT = {"dryRun": "All", "fieldValidation": "Strict"}
LEVEL = "pod-security.kubernetes.io/enforce"


@pytest.fixture
def restricted(api: httpx.Client, namespace: str) -> str:
    """A namespace that refuses pods below the restricted level, with what the golden pods refer to."""
    labels = {LEVEL: "restricted", "pod-security.kubernetes.io/warn": "restricted"}
    url = f"/api/v1/namespaces/{namespace}"
    patch = {"Content-Type": "application/merge-patch+json"}
    api.patch(url, json={"metadata": {"labels": labels}}, headers=patch).raise_for_status()
    for name in ("default", "trainer"):
        # The controller may have been faster with the first one.
        api.post(f"{url}/serviceaccounts", json={"metadata": {"name": name}})
    return namespace


@pytest.fixture(scope="session")
def classes(cluster) -> Iterator[None]:
    """The cluster-wide objects that the golden pods refer to."""
    wanted = [
        ("/apis/scheduling.k8s.io/v1/priorityclasses", {"metadata": {"name": name}, "value": 10})
        for name in ("batch", "high")
    ]
    wanted.append(("/apis/node.k8s.io/v1/runtimeclasses", {"metadata": {"name": "nvidia"}, "handler": "nvidia"}))
    with cluster.client() as client:
        for path, document in wanted:
            client.post(path, json=document).raise_for_status()
        yield
        for path, document in wanted:
            client.delete(f"{path}/{document['metadata']['name']}")


def post(api: httpx.Client, namespace: str, document: dict[str, Any]) -> httpx.Response:
    moved = copy.deepcopy(document)
    moved["metadata"]["namespace"] = namespace
    return api.post(COLLECTIONS[document["kind"]].format(namespace), json=moved, params=STRICT)


def first_pod(job: dict[str, Any]) -> dict[str, Any]:
    """Return the pod that the Job controller makes of a Job."""
    template = job["spec"]["template"]
    spec = template["spec"] | {"hostname": f"{job['metadata']['name']}-0"}
    name = f"{job['metadata']['name']}-0-abcde"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": name}, "spec": spec}


@pytest.mark.parametrize("case", CASES)
def test_the_api_server_accepts_every_child_without_a_warning(api: httpx.Client, restricted: str, case: str):
    for child in children(plan_of(case)):
        answer = post(api, restricted, child)

        assert answer.status_code == httpx.codes.CREATED, answer.json()["message"]
        assert "warning" not in answer.headers, answer.headers["warning"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("classes")
def test_a_namespace_at_the_restricted_level_accepts_every_pod(api: httpx.Client, restricted: str, case: str):
    answer = post(api, restricted, first_pod(plan_of(case).job))

    assert answer.status_code == httpx.codes.CREATED, answer.json()["message"]


@pytest.mark.parametrize("case", CASES)
def test_the_api_server_stores_every_text_as_it_was_planned(api: httpx.Client, restricted: str, case: str):
    planned = plan_of(case).job["spec"]["template"]
    stored = post(api, restricted, plan_of(case).job).json()["spec"]["template"]

    assert planned["metadata"]["annotations"].items() <= stored["metadata"]["annotations"].items()
    assert planned["metadata"]["labels"].items() <= stored["metadata"]["labels"].items()
    for ours, theirs in zip(planned["spec"]["containers"], stored["spec"]["containers"], strict=True):
        assert ours["args"] == theirs["args"]
        assert without_empty(ours["env"]) == without_empty(theirs["env"])


def without_empty(env: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in each.items() if value != ""} for each in env]


def test_root_is_refused_by_the_restricted_level(api: httpx.Client, restricted: str):
    job = plan(job_of("smallest", pod={"runAsUser": 0}), Attempt(1), SETTINGS).job
    answer = post(api, restricted, first_pod(job))

    assert answer.status_code == httpx.codes.FORBIDDEN
    assert "runAsNonRoot" in answer.json()["message"]


def test_the_longest_manifest_fits_into_its_job(api: httpx.Client, restricted: str):
    pod = {
        "env": [{"name": f"X{number}", "value": "$" * 8192} for number in range(64)],
        "annotations": {f"n{number}": "x" * 4000 for number in range(32)},
    }
    job = plan(job_of("smallest", pod=pod), Attempt(1), SETTINGS).job

    assert post(api, restricted, job).status_code == httpx.codes.CREATED
    assert len(json.dumps(job)) > 1_000_000
