"""Programs of a node that Debian does not have in the right version, built from Go modules into the cache once.

The test cluster's own binary (control_plane/binaries) holds kubelet, kube-proxy and kube-scheduler; runc, the CNI
plugins and Prometheus are Debian's. A first build of everything here takes 8 minutes on 2 cores.
"""

import fcntl
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from support.cluster import NoGo

CONTAINERD = "2.4.2"
COREDNS = "1.15.0"
KUEUE = "0.19.2"
_PAUSE = Path(__file__).parent / "pause.go"


@dataclass(frozen=True, slots=True)
class Program:
    """A folder of binaries of one Go module."""

    module: str
    version: str
    packages: tuple[str, ...]
    tags: str = ""

    @property
    def name(self) -> str:
        return self.packages[0].rpartition("/")[2]

    @property
    def folder(self) -> Path:
        """Where they are, or will be."""
        return cache() / f"{self.name}-{self.version}"

    def build(self) -> Path:
        """Build them unless they are there, and remove those of other versions.

        Returns:
            The folder that holds them.

        Raises:
            NoGo: There is neither Go nor an earlier build.
            AssertionError: The build failed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for package in self.packages:
                target = self.folder / package.rpartition("/")[2]
                if not target.exists():
                    # Aside first: a build that is killed leaves nothing that looks like a program.
                    aside = self.folder / "aside"
                    flags = ["-trimpath", f"-tags={self.tags}", "-ldflags=-s -w"]
                    go("install", *flags, f"{package}@v{self.version}", GOBIN=str(aside))
                    (aside / target.name).replace(target)
        for other in set(cache().glob(f"{self.name}-[0-9]*")) - {self.folder}:
            shutil.rmtree(other)
        return self.folder


_CONTAINERD = "github.com/containerd/containerd/v2"
containerd = Program(
    _CONTAINERD,
    CONTAINERD,
    tuple(f"{_CONTAINERD}/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")),
    # Drivers of file systems that need C libraries.
    "no_btrfs,no_devmapper,no_zfs",
)
coredns = Program("github.com/coredns/coredns", COREDNS, ("github.com/coredns/coredns",))
kueue = Program("sigs.k8s.io/kueue", KUEUE, ("sigs.k8s.io/kueue/cmd/kueue",))


def pause(folder: Path) -> Path:
    """Build the program that holds a pod's namespaces, a second's work."""
    target = folder / "pause"
    go("build", "-trimpath", "-ldflags=-s -w", "-o", str(target), str(_PAUSE))
    return target


def source(program: Program) -> Path:
    """Return the folder with a module's files, such as its chart."""
    told = go("mod", "download", "-json", f"{program.module}@v{program.version}")
    return Path(json.loads(told)["Dir"])


def cache() -> Path:
    """Return the folder outside the checkout where everything that is made once stays."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"  # noqa: TID251 - the rim
    return Path(folder) / "finetune-operator"


def go(*arguments: str, **variables: str) -> str:
    """Run go for programs without C and return what it printed."""
    if shutil.which("go") is None:
        raise NoGo("a node's programs are built with Go, and no `go` was found")
    ours = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    environment = dict(os.environ) | ours | variables  # noqa: TID251 - the rim
    done = subprocess.run(["go", *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"go {' '.join(arguments)} failed: {done.stderr[-3000:]}"
    return done.stdout
