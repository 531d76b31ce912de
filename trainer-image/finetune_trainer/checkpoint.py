"""Checkpoints that are whole or absent: written aside, flushed, listed with sha256, renamed.

A checkpoint is a folder `step-00000010` with `state.safetensors` (trained tensors, optimiser state, best state),
`meta.json` and `manifest.json`. The newest one whose files match its manifest wins; others are named with the reason.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune_api.names import MANIFEST_FILE
from finetune_trainer import fence
from finetune_trainer.errors import StorageUnavailable

_TENSORS, _META = "state.safetensors", "meta.json"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, slots=True)
class TrainState:
    """Everything that a run needs to continue: optimiser steps done, tensors by name, JSON values."""

    step: int
    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """The newest valid checkpoint, if any, and the newer ones that were skipped: name and reason."""

    path: Path | None
    skipped: tuple[tuple[str, str], ...]


def save(folder: Path, state: TrainState, keep: int) -> Path:
    """Write a checkpoint and delete the oldest ones beyond `keep`.

    Args:
        folder: Where checkpoints are.
        state: What to save.
        keep: How many of the newest to leave.

    Returns:
        The checkpoint's folder.

    Raises:
        Preempted: Another pod writes here now; nothing was written.
        StorageUnavailable: It cannot be written; earlier checkpoints are untouched.
    """  # noqa: DOC503
    fence.check(folder, fence.Writer.of(state.meta.get("writer")))
    place = folder / f"step-{state.step:08d}"
    aside = folder / f".{place.name}.{uuid.uuid4().hex}"
    try:
        aside.mkdir(parents=True)
        save_file({name: each.contiguous() for name, each in state.tensors.items()}, aside / _TENSORS)
        _write_text(aside / _META, json.dumps({"step": state.step, **state.meta}))
        write_manifest(aside)
        if place.exists():
            shutil.rmtree(place)
        aside.rename(place)
        sync_folder(folder)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(aside)
        raise StorageUnavailable(
            f"{place}: the checkpoint cannot be written ({error})", remedy="Free space, or give a larger volume."
        ) from error
    _prune(folder, keep)
    return place


def newest_valid(folder: Path) -> Found:
    """Find the checkpoint to continue from; every file of it was read and its sha256 matched."""
    skipped: list[tuple[str, str]] = []
    for place in reversed(_checkpoints(folder)):
        wrong = verify_manifest(place)
        if wrong is None:
            return Found(place, tuple(skipped))
        skipped.append((place.name, wrong))
    return Found(None, tuple(skipped))


def load(place: Path) -> TrainState:
    """Read a checkpoint that `newest_valid` returned."""
    meta = json.loads((place / _META).read_text(encoding="utf-8"))
    return TrainState(int(meta["step"]), load_file(place / _TENSORS), meta)


def write_manifest(folder: Path) -> str:
    """List every file of a folder with size and sha256 in `manifest.json`, and flush all of it to disk.

    Args:
        folder: Written completely.

    Returns:
        The sha256 of the manifest.
    """
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / MANIFEST_FILE:
            _sync_file(path)
            files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    text = json.dumps({"version": 1, "files": files}, indent=1, sort_keys=True)
    _write_text(folder / MANIFEST_FILE, text)
    for path in (*(each for each in folder.rglob("*") if each.is_dir()), folder):
        sync_folder(path)
    return hashlib.sha256(text.encode()).hexdigest()


def verify_manifest(folder: Path) -> str | None:
    """Return what is wrong with a folder that has a manifest, None when every file matches."""
    try:
        files = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return f"{MANIFEST_FILE} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST_FILE} cannot be read ({error})"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}"
        if sha256_of(path) != expected["sha256"]:
            return f"{name} has another sha256 than {MANIFEST_FILE} says"
    return None


def sha256_of(path: Path) -> str:
    """Return a file's sha256 as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk."""
    _sync_file(folder)


def _checkpoints(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _prune(folder: Path, keep: int) -> None:
    """Delete old checkpoints, and what a killed save left behind."""
    for path in _checkpoints(folder)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
