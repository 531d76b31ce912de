"""Container images without a registry: built here, handed to containerd over a pipe.

Everything large is made once and stays in the cache: buildah's storage, and per image an OCI layout with its layers as
plain files. A layer that containerd has is not sent again, so that a change of our code costs a layer of a megabyte and
not the 5 GB of torch below it.
"""

import fcntl
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from node.binaries import cache
from support.cluster import ROOT

OPERATOR: Final = "docker.io/library/finetune-operator:e2e"
TRAINER: Final = "docker.io/library/finetune-trainer:e2e"
PAUSE: Final = "docker.io/library/pause:e2e"
# What a cluster with a registry has under this name; here the base of ours, which is Debian too.
DEBIAN: Final = "docker.io/library/debian:bookworm-slim"
# Debian's own authorities are not enough behind a proxy that has one of its own.
_BUILD_FLAGS: Final = "--layers --isolation chroot --network host --volume /etc/ssl/certs:/etc/ssl/certs:ro"
_LOCAL: Final = "localhost/finetune-"
_BASE: Final = f"{_LOCAL}base"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_CONTENT: Final = Path("io.containerd.content.v1.content", "blobs", "sha256")
_CHUNK: Final = 1 << 20


class Images:
    """Builds images; one process at a time, since the storage is shared."""

    def __init__(self, log: Path) -> None:
        """Remember where builders tell what they do."""
        self._folder = cache() / "images"
        self._log = log

    @contextmanager
    def locked(self) -> Iterator["Images"]:
        """Hold the storage and containerd's root against other test runs."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self

    @property
    def containerd_root(self) -> Path:
        """Where containerd keeps the images between runs."""
        return self._folder / "containerd"

    def build_ours(self) -> None:
        """Build operator and trainer with the Dockerfiles that are released, over a base that is made here."""
        digest = hashlib.sha256((ROOT / "images" / "base.sh").read_bytes()).hexdigest()[:12]
        base = f"{_BASE}:{digest}"
        bases = {each for each in self._names() if each.startswith(_BASE)}
        if base not in bases:
            self._run(str(ROOT / "images" / "base.sh"), base)
        self._run(str(ROOT / "images" / "build.sh"), TAG="e2e", BASE_IMAGE=base, BUILD_FLAGS=_BUILD_FLAGS)
        for built, name in ((base, DEBIAN), (f"{_LOCAL}operator:e2e", OPERATOR), (f"{_LOCAL}trainer:e2e", TRAINER)):
            self._run("buildah", "tag", built, name)
        for stale in bases - {base}:
            self._run("buildah", "untag", stale)
        # What has no name was replaced; the cache of what is there stays.
        self._run("buildah", "rmi", "--prune")

    def build_program(self, name: str, program: Path) -> None:
        """Build an image that holds one static program and nothing else."""
        copy = f"COPY {program.name} /{program.name}"
        text = f'FROM scratch\n{copy}\nUSER 65532:65532\nENTRYPOINT ["/{program.name}"]\n'
        self._build(name, text, program.parent)

    def stream(self, name: str, known: set[str], to: IO[bytes]) -> None:
        """Write an image as an OCI archive.

        Args:
            name: Of an image that was built.
            known: Digests that the reader has; they are left out.
            to: Where the archive goes.
        """
        layout = self._layout(name)
        layout.parent.mkdir(exist_ok=True)
        # Its list only grows; the layers stay.
        (layout / "index.json").unlink(missing_ok=True)
        self._run("buildah", "push", "--quiet", name, f"oci:{layout}:current")
        parts = _plain(layout)
        manifest = parts[0]
        index = {"schemaVersion": 2, "manifests": [manifest | {"annotations": {"io.containerd.image.name": name}}]}
        with tarfile.open(fileobj=to, mode="w|", bufsize=_CHUNK) as archive:
            archive.copybufsize = _CHUNK
            for file, content in (("oci-layout", {"imageLayoutVersion": "1.0.0"}), ("index.json", index)):
                data = json.dumps(content).encode()
                header = tarfile.TarInfo(file)
                header.size = len(data)
                archive.addfile(header, io.BytesIO(data))
            for digest in dict.fromkeys(part["digest"] for part in parts):
                if digest not in known:
                    path = _blob(layout, digest)
                    archive.add(path, str(path.relative_to(layout)))

    def share(self, name: str) -> None:
        """Let the layout of an image that was imported share its layers with containerd: one file, and not two."""
        for blob in (self._layout(name) / "blobs" / "sha256").iterdir():
            imported = self.containerd_root / _CONTENT / blob.name
            if imported.exists() and not imported.samefile(blob):
                aside = blob.with_suffix(".aside")
                aside.hardlink_to(imported)
                aside.replace(blob)

    def _layout(self, name: str) -> Path:
        return self._folder / "layouts" / name.replace("/", "_").replace(":", "_")

    def _build(self, name: str, dockerfile: str, context: Path) -> None:
        file = self._folder / "Dockerfile"
        file.write_text(dockerfile)
        self._run("buildah", "build", "--quiet", "--layers", f"--file={file}", f"--tag={name}", str(context))

    def _names(self) -> list[str]:
        command = ["buildah", "images", "--format={{.Name}}:{{.Tag}}"]
        return subprocess.check_output(command, env=self._environment(), text=True).split()

    def _run(self, *command: str, **variables: str) -> None:
        with self._log.open("ab") as log:
            done = subprocess.run(
                command,
                env=self._environment() | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
        assert done.returncode == 0, f"{' '.join(command)}: {self._log.read_text(errors='replace')[-3000:]}"

    def _environment(self) -> dict[str, str]:
        config = self._folder / "storage.conf"
        if not config.exists():
            places = f'graphroot = "{self._folder / "storage"}"\nrunroot = "{self._folder / "run"}"\n'
            config.write_text(f'[storage]\ndriver = "{_driver(self._folder)}"\n{places}')
        return dict(os.environ) | {"CONTAINERS_STORAGE_CONF": str(config)}  # noqa: TID251 - the rim


def _driver(folder: Path) -> str:
    """Return the storage driver for a folder: overlay, or vfs where its file system does not take one."""
    trial = folder / "trial"
    places = [trial / name for name in ("lower", "upper", "work", "merged")]
    for each in places:
        each.mkdir(parents=True, exist_ok=True)
    lower, upper, work, merged = map(str, places)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    mount = f"mount -t overlay overlay -o {options} {merged}"
    done = subprocess.run(["unshare", "--mount", *mount.split()], capture_output=True, check=False)
    shutil.rmtree(trial)
    return "overlay" if done.returncode == 0 else "vfs"


def _plain(layout: Path) -> list[dict[str, Any]]:
    """Unpack the layers that buildah has just compressed, and drop what the image no longer uses.

    buildah looks for a layer under the digest of its plain form: found there, it is not compressed and written again.

    Returns:
        Descriptors of a manifest over plain layers, of its configuration, and of the layers.
    """
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    written = json.loads(_blob(layout, entry["digest"]).read_text())
    config = written["config"]
    layers: list[dict[str, Any]] = []
    for layer, digest in zip(written["layers"], _digests(layout, config["digest"]), strict=True):
        path = _blob(layout, digest)
        if not path.exists():
            aside = path.with_suffix(".aside")
            with gzip.open(_blob(layout, layer["digest"])) as packed, aside.open("wb") as plain:
                shutil.copyfileobj(packed, plain, _CHUNK)
            aside.replace(path)
        layers.append({"mediaType": _LAYER, "digest": digest, "size": path.stat().st_size})
    data = json.dumps({"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": layers}).encode()
    manifest = {"mediaType": _MANIFEST, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}
    _blob(layout, manifest["digest"]).write_bytes(data)
    parts = [manifest, config, *layers]
    for stale in set((layout / "blobs" / "sha256").iterdir()) - {_blob(layout, part["digest"]) for part in parts}:
        stale.unlink()
    return parts


def _digests(layout: Path, config: str) -> list[str]:
    """Return the digests of an image's plain layers."""
    return json.loads(_blob(layout, config).read_text())["rootfs"]["diff_ids"]


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")
