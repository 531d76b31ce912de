"""One control plane per test session, with the CRD applied; a namespace per test."""

import importlib.util
import itertools
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest
import yaml

HERE = Path(__file__).parent
CRD = HERE.parents[1] / "crds" / "finetunejobs.finetune.dev.yaml"
CRD_URL = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/finetunejobs.finetune.dev"
_numbers = itertools.count(1)


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory):
    build = load(HERE / "binaries" / "build.py")
    if not build.binary().exists() and shutil.which("go") is None:
        pytest.skip("tier left out: the control plane is built with Go, and no `go` was found")
    servers = load(HERE / "servers.py")
    plane = servers.ControlPlane(build.build(), tmp_path_factory.mktemp("control-plane"))
    try:
        plane.start()
        plane.kubectl("apply", "--server-side", "-f", str(CRD))
        with plane.client() as client:
            await_established(client)
        yield plane
    finally:
        plane.stop()


def await_established(client: httpx.Client) -> None:
    for _ in range(200):
        conditions = client.get(CRD_URL).json().get("status", {}).get("conditions") or []
        if any(each["type"] == "Established" and each["status"] == "True" for each in conditions):
            return
        time.sleep(0.05)
    raise AssertionError(f"the CRD is not served: {conditions}")


@pytest.fixture
def api(cluster) -> Iterator[httpx.Client]:
    with cluster.client() as client:
        yield client


@pytest.fixture
def namespace(api: httpx.Client) -> str:
    name = f"test-{next(_numbers)}"
    api.post("/api/v1/namespaces", json={"metadata": {"name": name}}).raise_for_status()
    return name


@pytest.fixture(scope="session")
def crd_document() -> dict:
    return yaml.safe_load(CRD.read_text())
