"""Build the test cluster's one binary into a cache folder outside the checkout; `make cluster-binaries`.

The folder's name is a hash of everything that decides the binary: it is built once, and again when that changes.
FINETUNE_TEST_KUBERNETES chooses another of VERSIONS than the newest; `make test-matrix` does.
The first build takes 5 to 10 minutes on 2 cores, a later call none. Prints the binary's path.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

# Kubernetes -> the etcd that it is built with here.
VERSIONS = {"1.37.2": "3.7.0", "1.34.4": "3.6.8"}
KUBERNETES = os.environ.get("FINETUNE_TEST_KUBERNETES") or next(iter(VERSIONS))
ETCD = VERSIONS[KUBERNETES]
HERE = Path(__file__).parent


def binary() -> Path:
    """Return where the binary is, or will be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parts = (KUBERNETES, ETCD, (HERE / "main.go").read_text(), Path(__file__).read_text())
    return cache / "finetune-operator" / f"cluster-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}" / "cluster"


def build() -> Path:
    """Build the binary unless it is there.

    Returns:
        Its path.

    Raises:
        SystemExit: Go is missing or the build failed.
    """
    target = binary()
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return target
        if shutil.which("go") is None:
            raise SystemExit("the test cluster is built with Go, and no `go` was found; install Go 1.26 or newer")
        started = time.monotonic()
        source = target.parent / "source"
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir()
        shutil.copy(HERE / "main.go", source)
        (source / "go.mod").write_text(module_file())
        say(f"building Kubernetes {KUBERNETES} and etcd {ETCD} once, 5 to 10 minutes on 2 cores")
        go(source, "mod", "tidy")
        version = f"-X k8s.io/component-base/version.gitVersion=v{KUBERNETES}"
        major, minor, _ = KUBERNETES.split(".")
        parts = f"-X k8s.io/component-base/version.gitMajor={major} -X k8s.io/component-base/version.gitMinor={minor}"
        go(source, "build", "-trimpath", "-ldflags", f"-s -w {version} {parts}", "-o", "cluster", ".")
        (source / "cluster").replace(target)
        say(f"built in {time.monotonic() - started:.0f} s")
    return target


def module_file() -> str:
    """Return go.mod: Kubernetes' own staging modules are replaced by their published versions."""
    told = go(HERE, "mod", "download", "-json", f"k8s.io/kubernetes@v{KUBERNETES}")
    text = Path(json.loads(told)["GoMod"]).read_text()
    staging = sorted(set(re.findall(r"^\s*(k8s\.io/\S+) => \./staging", text, re.MULTILINE)))
    release = f"v0.{KUBERNETES.partition('.')[2]}"
    go_line = re.search(r"^go (\S+)", text, re.MULTILINE)
    assert go_line is not None
    return "\n".join(
        [
            "module cluster",
            f"go {go_line[1]}",
            "godebug default=go1.26",
            f"require k8s.io/kubernetes v{KUBERNETES}",
            f"require go.etcd.io/etcd/server/v3 v{ETCD}",
            *(f"require {module} {release}" for module in ("k8s.io/component-base", "k8s.io/kubectl")),
            *(f"replace {module} => {module} {release}" for module in staging),
            "",
        ]
    )


def go(folder: Path, *arguments: str) -> str:
    """Run go in a folder and return what it printed."""
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    done = subprocess.run(["go", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"go {arguments[0]} failed: {done.stderr[-3000:]}")
    return done.stdout


def say(text: str) -> None:
    """Tell a person what takes the time."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    print(build())
