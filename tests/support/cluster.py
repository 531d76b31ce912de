"""The test cluster for whoever needs one: etcd, kube-apiserver and kube-controller-manager, with the CRD."""

import asyncio
import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx

from finetune_api.names import API_VERSION, CRD_NAME, PLURAL
from finetune_operator.cluster import Cluster
from support.access import Access
from support.accounts import delete_namespaces
from support.audit import audit_flags
from support.waiting import await_that

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds" / "finetunejobs.finetune.dev.yaml"
CRD_URL = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD_NAME}"
EXISTING = "FINETUNE_TEST_KUBECONFIG"
_PLANE = ROOT / "tests" / "control_plane"


class NoGo(RuntimeError):
    """The servers are built with Go, and there is neither Go nor an earlier build."""


class ExistingCluster(Access):
    """One that somebody else started and keeps; with a controller-manager, without nodes: tests play the kubelets."""

    def stop(self) -> None:
        """Delete what this session made; the servers stay."""
        with self.client() as client:
            delete_namespaces(client)


def open_cluster(folder: Path) -> Any:
    """Return a cluster with the CRD: that of the kubeconfig in FINETUNE_TEST_KUBECONFIG, else one that is started here.

    Returns:
        An `Access` with `stop`, which the caller calls.

    Raises:
        NoGo: The servers, and their kubectl, cannot be built here.
    """  # noqa: DOC502
    kubeconfig = os.environ.get(EXISTING)  # noqa: TID251 - the rim
    if not kubeconfig:
        return load_control_plane(folder)
    folder.mkdir(parents=True, exist_ok=True)
    url, token, ca_file = asyncio.run(_read_kubeconfig(kubeconfig))
    cluster = ExistingCluster(_binary(), folder, url, token, ca_file)
    cluster.write_kubeconfig()
    _apply_crd(cluster)
    return cluster


async def _read_kubeconfig(path: str) -> tuple[str, str, str]:
    """Return server, token and file of the authority that the operator would use with a kubeconfig."""
    found = await Cluster.load(path, None)
    token = (await found.token() or "").removeprefix("Bearer ")
    assert token, f"{EXISTING}: the user of {path} has no token; kubectl create token makes one"
    return found.configuration.host, token, found.configuration.ssl_ca_cert


def load_control_plane(folder: Path) -> Any:
    """Build the servers when needed, start them in a folder, and apply the CRD.

    Returns:
        A `ControlPlane` (tests/control_plane/servers.py); the caller stops it.

    Raises:
        NoGo: They cannot be built here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The plugin asks for the right to an owner's finalizers, as OpenShift does.
    flags = ["--enable-admission-plugins=OwnerReferencesPermissionEnforcement", *audit_flags(folder)]
    plane = make_control_plane(folder, flags={"kube-apiserver": flags})
    try:
        plane.start()
        _apply_crd(plane)
    except BaseException:
        plane.stop()
        raise
    return plane


def make_control_plane(folder: Path, **more: Any) -> Any:
    """Build the servers when needed, and return them before their start.

    Args:
        folder: For data, certificates and logs.
        more: Arguments of `ControlPlane`.

    Raises:
        NoGo: They cannot be built here.
    """  # noqa: DOC502
    return _load(_PLANE / "servers.py").ControlPlane(_binary(), folder, **more)


def _binary() -> Path:
    build = _load(_PLANE / "binaries" / "build.py")
    if not build.binary().exists() and shutil.which("go") is None:
        raise NoGo("the control plane is built with Go, and no `go` was found")
    return build.build()


def _apply_crd(cluster: Access) -> None:
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
    with cluster.client() as client:
        await_established(client)


def await_established(client: httpx.Client) -> None:
    """Wait until the API server serves FineTuneJobs."""

    def established() -> bool:
        conditions = client.get(CRD_URL).json().get("status", {}).get("conditions") or []
        return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)

    await_that(established, "the CRD to be served")
    # Established comes a moment before the storage: until then a list is 429.
    url = f"/apis/{API_VERSION}/{PLURAL}"
    await_that(lambda: client.get(url).status_code == httpx.codes.OK, "FineTuneJobs to be listed")


def _load(path: Path) -> ModuleType:
    """Load a module that is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
