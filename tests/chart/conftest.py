"""Both Helms, and one control plane without our CRD, since the chart brings it."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.cluster import CRD_URL, NoGo, load_control_plane
from support.helm import NEWEST, VERSIONS, Helm, build_helm
from support.waiting import await_that

# Where definitions of the kinds that others serve are published: Go modules, and the folders in them.
FOREIGN = {
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": "example/prometheus-operator-crd",
    "github.com/cert-manager/cert-manager@v1.21.2": "deploy/crds",
}
FOREIGN_KINDS = ("podmonitors", "servicemonitors", "prometheusrules", "io_certificates", "io_issuers")


def built(major: str) -> Path:
    try:
        return build_helm(major)
    except NoGo as error:
        pytest.skip(f"tier left out: {error}")


@pytest.fixture(scope="session", params=VERSIONS)
def each_helm(request: pytest.FixtureRequest) -> Path:
    return built(request.param)


@pytest.fixture
def helm(each_helm: Path, tmp_path: Path) -> Helm:
    """Each Helm, without a cluster."""
    return Helm(each_helm, tmp_path)


@pytest.fixture(scope="session")
def newest_helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """The newest Helm, without a cluster."""
    return Helm(built(NEWEST), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if shutil.which("go") is None:
        pytest.skip("tier left out: definitions of other kinds come as Go modules, and no `go` was found")
    try:
        plane = load_control_plane(tmp_path_factory.mktemp("control-plane"))
    except NoGo as error:
        pytest.skip(f"tier left out: {error}")
    with plane.client() as api:
        api.delete(CRD_URL).raise_for_status()
        await_that(lambda: api.get(CRD_URL).status_code == httpx.codes.NOT_FOUND, "the CRD to be gone")
        plane.kubectl("apply", "--server-side", *(f"--filename={each}" for each in foreign_definitions()))
    yield plane
    plane.stop()


@pytest.fixture(scope="session")
def api(plane: Any) -> Iterator[httpx.Client]:
    with plane.client() as client:
        yield client


@pytest.fixture
def cluster_helm(each_helm: Path, plane: Any, tmp_path: Path) -> Helm:
    """Each Helm, with the control plane."""
    return Helm(each_helm, tmp_path, plane.kubeconfig)


def foreign_definitions() -> list[Path]:
    """Return the files that define the kinds of Prometheus' operator and of cert-manager."""
    found: list[Path] = []
    for module, folder in FOREIGN.items():
        command = ["go", "mod", "download", "-json", module]
        environment = dict(os.environ) | {"GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local", "GOWORK": "off"}  # noqa: TID251
        told = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=True).stdout
        files = (Path(json.loads(told)["Dir"]) / folder).glob("*.yaml")
        found += [each for each in files if each.stem.endswith(FOREIGN_KINDS)]
    assert len(found) == len(FOREIGN_KINDS)
    return sorted(found)
