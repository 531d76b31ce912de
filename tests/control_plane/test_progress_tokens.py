"""FAULTS 49 with tokens that a real API server signs: the operator knows the pod, and takes no other token."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from kubernetes.aio import client

from finetune_api.names import PROGRESS_AUDIENCE
from finetune_operator.cluster import Cluster
from finetune_operator.tokens import Authority, Caller, TokenRefused
from support.accounts import await_namespace, request_token

POD = "sentiment-abcdefghij-0-x7k2p"


@pytest.fixture
def pod(api: httpx.Client, namespace: str) -> Iterator[dict[str, Any]]:
    await_namespace(api, namespace)
    body = {"metadata": {"name": POD}, "spec": {"containers": [{"name": "trainer", "image": "none"}]}}
    yield api.post(f"/api/v1/namespaces/{namespace}/pods", json=body).raise_for_status().json()
    api.delete(f"/api/v1/namespaces/{namespace}/pods/{POD}", params={"gracePeriodSeconds": "0"})


def pod_token(api: httpx.Client, pod: dict[str, Any], audience: str) -> str:
    metadata = pod["metadata"]
    bound = {"kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"]}
    spec = {"expirationSeconds": 600, "audiences": [audience], "boundObjectRef": bound}
    url = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/default/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    return api.post(url, json=body).raise_for_status().json()["status"]["token"]


def as_operator(cluster: Any, operator_token: str, work: Callable[[Cluster], Awaitable[Any]]) -> Any:
    """Return what `work` finds over a connection with the operator's own permissions."""

    async def run() -> Any:
        configuration = client.Configuration(host=cluster.url)
        configuration.ssl_ca_cert = cluster.ca_file
        configuration.api_key["BearerToken"] = f"Bearer {operator_token}"
        connection = Cluster(configuration)
        await connection.open()
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


async def verdicts(authority: Authority, tokens: list[str]) -> list[Caller | str]:
    found: list[Caller | str] = []
    for token in tokens:
        try:
            found.append(await authority.check(token))
        except TokenRefused as error:
            found.append(error.verdict)
    return found


def test_a_pods_token_tells_the_pod_and_others_are_refused(
    cluster: Any, api: httpx.Client, operator_token: str, pod: dict[str, Any]
):
    namespace = pod["metadata"]["namespace"]
    tokens = [
        pod_token(api, pod, PROGRESS_AUDIENCE),
        pod_token(api, pod, "somebody-else"),
        request_token(api, namespace, "default", (PROGRESS_AUDIENCE,)),
        request_token(api, namespace, "default"),
    ]

    async def published(path: str) -> dict[str, Any]:
        with cluster.client(operator_token) as plain:
            return plain.get(path).raise_for_status().json()

    found = asyncio.run(verdicts(Authority(published, lambda: datetime.now(UTC)), tokens))

    assert found == [Caller(namespace, POD, pod["metadata"]["uid"], "default"), "audience", "claims", "audience"]


def test_the_operators_own_connection_reads_the_keys(
    cluster: Any, api: httpx.Client, operator_token: str, pod: dict[str, Any]
):
    token = pod_token(api, pod, PROGRESS_AUDIENCE)

    def work(connection: Cluster) -> Awaitable[list[Caller | str]]:
        return verdicts(Authority(connection.get, connection.now), [token])

    (found,) = as_operator(cluster, operator_token, work)
    assert found == Caller(pod["metadata"]["namespace"], POD, pod["metadata"]["uid"], "default")
