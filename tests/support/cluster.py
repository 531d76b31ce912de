"""The test cluster for whoever needs one: etcd, kube-apiserver and kube-controller-manager, with the CRD."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx

from finetune_api.names import API_VERSION, CRD_NAME, PLURAL
from support.audit import audit_flags
from support.waiting import await_that

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds" / "finetunejobs.finetune.dev.yaml"
CRD_URL = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD_NAME}"
_PLANE = ROOT / "tests" / "control_plane"


class NoGo(RuntimeError):
    """The servers are built with Go, and there is neither Go nor an earlier build."""


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
        plane.kubectl("apply", "--server-side", "-f", str(CRD))
        with plane.client() as client:
            await_established(client)
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
    build = _load(_PLANE / "binaries" / "build.py")
    if not build.binary().exists() and shutil.which("go") is None:
        raise NoGo("the control plane is built with Go, and no `go` was found")
    return _load(_PLANE / "servers.py").ControlPlane(build.build(), folder, **more)


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
