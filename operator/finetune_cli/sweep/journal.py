"""What a sweep did, one line of JSON after the other, on the disk before anything follows from it.

    {"kind": "begin", "version": 1, "sweep": DIGEST}
    {"kind": "start", "number": 0, "until": 3, "parameters": {PATH: VALUE}}      a promotion is another start
    {"kind": "end", "number": 0, "state": "Paused", "values": [0.71, 0.74, 0.76], ...}

A start without its end is what was interrupted.
"""

import errno
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from finetune_api.base import canonical_json
from finetune_api.run_config import text_digest
from finetune_api.status import ArtifactStatus
from finetune_api.sweep import FineTuneSweepSpec
from finetune_api.validation import InvalidSpec, Problem
from finetune_cli.sweep.search import Move, Trial

JOURNAL_FILE = "sweep.jsonl"
_VERSION = 1
_FREE = ("trials",)
"""What may change between two commands."""


class Journal:
    """The journal of one sweep, open for appending."""

    def __init__(self, descriptor: int, trials: Sequence[Trial]) -> None:
        """Use `Journal.open`."""
        self._descriptor = descriptor
        self._trials = list(trials)

    @classmethod
    def open(cls, path: Path, spec: FineTuneSweepSpec) -> Self:
        """Open or begin a journal; the work folder must be held.

        Args:
            path: The file.
            spec: The sweep that it must be of.

        Returns:
            The journal with every trial in it.

        Raises:
            InvalidSpec: It is another sweep's, or it is damaged before its last line.
        """  # noqa: DOC503
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            journal = cls(descriptor, _replayed(path, descriptor, digest(spec)))
            if not os.fstat(descriptor).st_size:
                journal._append({"kind": "begin", "version": _VERSION, "sweep": digest(spec)})
                _sync_folder(path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        return journal

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial, in the order of their numbers."""
        return tuple(self._trials)

    def start(self, move: Move, parameters: dict[str, Any] | None) -> None:
        """Note that a trial starts or goes on; the parameters belong to a new one."""
        record: dict[str, Any] = {"kind": "start", "number": move.number, "until": move.until}
        self._note(record if parameters is None else {**record, "parameters": parameters})

    def end(self, trial: Trial) -> None:
        """Note how a trial's run ended."""
        record: dict[str, Any] = {"kind": "end", "number": trial.number, "state": trial.state}
        record |= {"values": list(trial.values), "metrics": dict(trial.metrics)}
        record |= {"artifact": trial.artifact.to_dict()} if trial.artifact else {}
        record |= {"reason": trial.reason, "message": trial.message} if trial.reason else {}
        self._note(record)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _note(self, record: dict[str, Any]) -> None:
        self._append(record)
        _apply(self._trials, record)

    def _append(self, record: dict[str, Any]) -> None:
        line = canonical_json(record).encode() + b"\n"
        if os.write(self._descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, "the sweep's journal cannot be written", JOURNAL_FILE)
        os.fsync(self._descriptor)


def digest(spec: FineTuneSweepSpec) -> str:
    """Return what tells two sweeps apart: everything but how many trials are wanted."""
    return text_digest(canonical_json({key: value for key, value in spec.to_dict().items() if key not in _FREE}))


def _replayed(path: Path, descriptor: int, wanted: str) -> list[Trial]:
    """Return the trials of a journal, whose torn last line is cut off."""
    text = path.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        os.ftruncate(descriptor, whole)
    trials: list[Trial] = []
    for number, line in enumerate(text[:whole].splitlines(), 1):
        try:
            record = json.loads(line)
            if record["kind"] != "begin":
                _apply(trials, record)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise _refused(f"{path}, line {number}", "not a line of a sweep's journal", line[:80]) from error
        if (number == 1) != (record["kind"] == "begin"):
            raise _refused(f"{path}, line {number}", "a journal begins once, with its first line", line[:80])
        if number == 1 and (record["sweep"], record["version"]) != (wanted, _VERSION):
            raise _refused(str(path), "this folder holds another sweep, or this one before it was changed", b"")
    return trials


def _refused(where: str, rule: str, found: bytes) -> InvalidSpec:
    remedy = "Choose another --workdir, or delete the old one to start again."
    return InvalidSpec((Problem(where, rule, ascii(found.decode(errors="replace")) if found else "", remedy),))


def _apply(trials: list[Trial], record: dict[str, Any]) -> None:
    number = record["number"]
    if record["kind"] == "start" and number == len(trials):
        trials.append(Trial(number=number, parameters=record["parameters"], until=record["until"]))
    elif record["kind"] == "start":
        trials[number] = replace(trials[number], state="Running", until=record["until"])
    else:
        trials[number] = replace(
            trials[number],
            state=record["state"],
            values=tuple(record["values"]),
            metrics=record["metrics"],
            artifact=ArtifactStatus.model_validate(record["artifact"]) if "artifact" in record else None,
            reason=record.get("reason", ""),
            message=record.get("message", ""),
        )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
