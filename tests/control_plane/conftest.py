"""One control plane per test session, with the CRD applied; a namespace, a proxy, an operator per test."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from support.accounts import grant_operator, make_namespace
from support.audit import forbidden
from support.cluster import CRD, NoGo, open_cluster
from support.gang import Kubelet
from support.operator_process import OperatorProcess
from support.proxy import FaultProxy
from support.world import World

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory):
    try:
        plane = open_cluster(tmp_path_factory.mktemp("control-plane"))
    except NoGo as error:
        pytest.skip(f"tier left out: {error}")
    yield plane
    plane.stop()
    # One that was there before keeps its audit log to itself.
    assert forbidden(plane.folder) == [], "the operator asked for what its role does not allow"


@pytest.fixture
def api(cluster) -> Iterator[httpx.Client]:
    with cluster.client() as client:
        yield client


@pytest.fixture
def namespace(api: httpx.Client) -> str:
    return make_namespace(api, f"test-{next(_numbers)}")


@pytest.fixture(scope="session")
def crd_document() -> dict:
    return yaml.safe_load(CRD.read_text())


@pytest.fixture
def proxy(cluster) -> Iterator[FaultProxy]:
    """A proxy of the test's own between its operator and the API server."""
    with FaultProxy(cluster.url, cluster.ca_file) as proxy:
        yield proxy


@pytest.fixture
def kubelet(cluster, namespace: str) -> Iterator[Kubelet]:
    with Kubelet(cluster.client, namespace) as kubelet:
        yield kubelet


@pytest.fixture(scope="session")
def operator_token(cluster) -> str:
    """A token of an account with the operator's permissions and no more."""
    return grant_operator(cluster)


@pytest.fixture
def make_operator(
    proxy: FaultProxy, operator_token: str, namespace: str, tmp_path: Path
) -> Iterator[Callable[..., OperatorProcess]]:
    """Makes operators of the test's namespace behind the test's proxy; they are killed at its end.

    `flags`, `env`, and `server_url` for another proxy; each has a folder of its own.
    """
    made: list[OperatorProcess] = []

    def make(*flags: str, server_url: str = "", env: dict[str, str] | None = None, **more: Any) -> OperatorProcess:
        folder = tmp_path / f"operator-{len(made)}"
        process = OperatorProcess(
            server_url or proxy.url, operator_token, folder, (namespace,), env, flags=flags, **more
        )
        made.append(process)
        return process

    yield make
    for each in made:
        each.kill()


@pytest.fixture
def world(cluster, namespace: str, tmp_path: Path) -> Iterator[World]:
    """One operator, not started yet, behind a proxy in a namespace of its own."""
    with World(cluster, namespace, tmp_path) as found:
        yield found
