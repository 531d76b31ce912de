"""The operator with the rights that the chart grants, and no more, in both ways of watching."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from finetune_api import names
from support.chart import make_namespace
from support.helm import NEWEST, Helm, build_helm
from support.release import Release
from support.waiting import await_that


@pytest.fixture
def helm_here(plane: Any, tmp_path: Path) -> Helm:
    return Helm(build_helm(NEWEST), tmp_path, plane.kubeconfig)


@pytest.fixture
def confined(helm_here: Helm, plane: Any, api: httpx.Client) -> Iterator[Release]:
    """A release with two operators for two namespaces."""
    for name in ("team-a", "team-b", "elsewhere"):
        make_namespace(api, name)
    with Release(helm_here, plane, "confined", "--set=watchNamespaces={team-a,team-b}", "--set=replicas=2") as release:
        yield release


def child_of(uid: str, name: str, namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs/{names.job_name(name, uid, 1)}"


def test_an_operator_of_two_namespaces_works_there_and_sees_nothing_else(confined: Release, plane: Any, tmp_path: Path):
    uids = {namespace: confined.apply("a", namespace) for namespace in ("team-a", "team-b", "elsewhere")}

    with confined.operator(tmp_path / "operator") as operator:
        for namespace in ("team-a", "team-b"):
            await_that(lambda at=namespace: confined.exists(child_of(uids[at], "a", at)), f"a Job in {namespace}")
        log, health = operator.log.read_text(), operator.health()
    with plane.client(confined.token()) as account:
        refused = {path: account.get(path).status_code for path in ("/apis/batch/v1/jobs", "/api/v1/pods")}

    assert health == (httpx.codes.OK, "ok\n")
    assert "forbidden" not in log.lower()
    assert not confined.exists(child_of(uids["elsewhere"], "a", "elsewhere"))
    assert set(refused.values()) == {httpx.codes.FORBIDDEN}
    assert confined.exists("/apis/coordination.k8s.io/v1/namespaces/{}/leases/finetune-operator")


@pytest.mark.usefixtures("confined")
def test_a_person_who_may_edit_a_namespace_may_train_there(api: httpx.Client):
    roles = {}
    for role in ("view", "edit"):
        kind = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": role}}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
        subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"a-{role}er"}
        url = "/apis/rbac.authorization.k8s.io/v1/namespaces/team-a/rolebindings"
        api.post(url, json=kind | {"roleRef": reference, "subjects": [subject]}).raise_for_status()
        roles[role] = subject["name"]

    def may(role: str, verb: str, subresource: str = "") -> bool:
        attributes = {"namespace": "team-a", "group": names.GROUP, "resource": names.PLURAL, "verb": verb}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": roles[role], "resourceAttributes": attributes | {"subresource": subresource}},
        }
        url = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return api.post(url, json=body).raise_for_status().json()["status"]["allowed"]

    await_that(lambda: may("edit", "create") and may("view", "list"), "the aggregated rules")

    assert not may("view", "create")
    assert not may("edit", "patch", "status")
