"""Service accounts of the test cluster, with the operator's own permissions and nothing more."""

import secrets
from typing import Protocol

import httpx

from finetune_operator.permissions import PERMISSIONS
from support.waiting import await_that

OPERATOR_NAMESPACE = "finetune-system"
_NAME = "finetune-operator"
OPERATOR_USER = f"system:serviceaccount:{OPERATOR_NAMESPACE}:{_NAME}"
_NAMESPACES = "/api/v1/namespaces"
# Sessions may share a cluster.
_SESSION = secrets.token_hex(3)
_LABEL = "finetune.dev/test-session"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_TOKEN_S = 6 * 3600


class Plane(Protocol):
    """Servers that give out clients with every right."""

    def client(self) -> httpx.Client: ...


def grant_operator(plane: Plane) -> str:
    """Make the operator's account with exactly its permissions, and return a token for it; may be called again."""
    account = {"kind": "ServiceAccount", "name": _NAME, "namespace": OPERATOR_NAMESPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": _NAME}
    accounts = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/serviceaccounts"
    with plane.client() as client:
        _create(client, _NAMESPACES, {"metadata": {"name": OPERATOR_NAMESPACE}})
        _create(client, accounts, {"metadata": {"name": _NAME}})
        _create(client, f"{_RBAC}/clusterroles", {"metadata": {"name": _NAME}, "rules": list(PERMISSIONS)})
        binding = {"metadata": {"name": _NAME}, "roleRef": role, "subjects": [account]}
        _create(client, f"{_RBAC}/clusterrolebindings", binding)
        token = request_token(client, OPERATOR_NAMESPACE, _NAME)
        _await_rights(client)
    return token


def request_token(client: httpx.Client, namespace: str, name: str, audiences: tuple[str, ...] = ()) -> str:
    """Return a token of a service account, for the API server when no audience is given."""
    spec = {"expirationSeconds": _TOKEN_S} | ({"audiences": list(audiences)} if audiences else {})
    url = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    return client.post(url, json=body).raise_for_status().json()["status"]["token"]


def make_namespace(client: httpx.Client, stem: str) -> str:
    """Make a namespace that no other session has, and return its name."""
    name = f"{stem}-{_SESSION}"
    body = {"metadata": {"name": name, "labels": {_LABEL: _SESSION}}}
    client.post(_NAMESPACES, json=body).raise_for_status()
    await_namespace(client, name)
    return name


def delete_namespaces(client: httpx.Client) -> None:
    """Delete all that `make_namespace` made in this session; does not wait for their end."""
    found = client.get(_NAMESPACES, params={"labelSelector": f"{_LABEL}={_SESSION}"}).raise_for_status().json()["items"]
    for each in found:
        client.delete(f"{_NAMESPACES}/{each['metadata']['name']}")


def await_namespace(client: httpx.Client, namespace: str) -> None:
    """Wait until pods can be made in a namespace: its `default` account comes a moment after it."""
    url = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    await_that(lambda: client.get(url).status_code == httpx.codes.OK, f"account default in {namespace}")


def _await_rights(client: httpx.Client) -> None:
    """Wait until the authorizer heard of the binding, a watch of its own."""
    attributes = {"verb": "list", "group": "", "resource": "pods"}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": OPERATOR_USER, "resourceAttributes": attributes},
    }
    url = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    await_that(
        lambda: client.post(url, json=body).raise_for_status().json()["status"]["allowed"], "the operator's rights"
    )


def _create(client: httpx.Client, url: str, body: dict) -> None:
    answer = client.post(url, json=body)
    if answer.status_code != httpx.codes.CONFLICT:
        answer.raise_for_status()
