"""Both Helms, built from Go modules into the cache folder once, and how tests run them."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from support.cluster import ROOT, NoGo

CHART = ROOT / "charts" / "finetune-operator"
VERSIONS = {"v3": "3.22.0", "v4": "4.3.1"}
NEWEST = "v4"
_UTIL = "helm.sh/helm/v3/pkg/chartutil"
# Helm 3 believes to talk to 1.20 unless its build says otherwise; Helm 4 reads its own client's version.
_FLAGS = {"v3": f"-X {_UTIL}.k8sVersionMajor=1 -X {_UTIL}.k8sVersionMinor=37"}
_TIMEOUT_S = 120


class HelmFailed(AssertionError):
    """helm ended with an error; its message is what it wrote."""


class Helm:
    """One version of helm."""

    def __init__(self, binary: Path, folder: Path, kubeconfig: Path | None = None) -> None:
        """Remember the program.

        Args:
            binary: From `build_helm`.
            folder: For its cache and configuration.
            kubeconfig: Of the cluster; None for what needs none.
        """
        self._binary = binary
        places = {name: str(folder) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
        self._env = dict(os.environ) | places | {"KUBECONFIG": str(kubeconfig or "/dev/null")}  # noqa: TID251 - the rim

    def run(self, *arguments: str) -> str:
        """Run helm and return what it printed.

        Raises:
            HelmFailed: It failed.
        """
        command = [str(self._binary), *arguments]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
        if done.returncode != 0:
            raise HelmFailed(f"helm {' '.join(arguments[:2])}: {done.stderr}")
        return done.stdout

    def template(self, *flags: str, kubernetes: str = "1.37.0", release: str = "finetune-operator") -> str:
        """Render the chart without a cluster."""
        where = ("--namespace=finetune-system", f"--kube-version={kubernetes}")
        return self.run("template", release, str(CHART), *where, *flags)

    def objects(self, *flags: str, **more: str) -> list[dict[str, Any]]:
        """Render the chart and return its objects."""
        return [each for each in yaml.safe_load_all(self.template(*flags, **more)) if each]


def build_helm(major: str) -> Path:
    """Build helm unless it is in the cache, one to three minutes.

    Args:
        major: A key of VERSIONS.

    Returns:
        The program's path.

    Raises:
        NoGo: There is neither Go nor an earlier build.
        AssertionError: The build failed.
    """
    version = VERSIONS[major]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")  # noqa: TID251 - the rim
    target = cache / "finetune-operator" / f"helm-{version}" / "helm"
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return target
        if shutil.which("go") is None:
            raise NoGo(f"Helm {version} is built with Go, and no `go` was found")
        module = f"helm.sh/helm/{major}"
        source = target.parent / "source"
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir()
        lines = ("module build", "go 1.26", f"require {module} v{version}", f"tool {module}/cmd/helm", "")
        (source / "go.mod").write_text("\n".join(lines))
        _go(source, "mod", "tidy")
        flags = f"-s -w -X {module}/internal/version.version=v{version} {_FLAGS.get(major, '')}"
        _go(source, "build", "-trimpath", "-ldflags", flags, "-o", "helm", f"{module}/cmd/helm")
        (source / "helm").replace(target)
    return target


def _go(folder: Path, *arguments: str) -> None:
    ours = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    environment = dict(os.environ) | ours  # noqa: TID251 - the rim
    done = subprocess.run(["go", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"go {arguments[0]} failed: {done.stderr[-3000:]}"
