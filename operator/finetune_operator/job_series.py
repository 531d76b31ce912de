"""Prometheus series of single jobs, made from what the operator holds at the moment when it is asked.

What a job's status tells is there again after a restart of the operator and until the job is deleted; what a running
trainer posts is newer and wins. A job is one small row; its lines are written in pieces between other work, since the
client's objects would need 80 MiB for 10,000 jobs. Steps, epochs and uids are never labels.
"""

import asyncio
import math
import re
import sys
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Final, NamedTuple

from finetune_api.progress import ProgressEvent
from finetune_operator.status import condition
from finetune_operator.store import Record

_LINES_PER_PIECE: Final = 1000
_ROWS_PER_TURN: Final = 200
_MAX_METRICS: Final = 16
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")
_METRIC: Final = re.compile(r"[A-Za-z0-9_.@:-]{1,64}")
_NO_PHASE: Final = "New"


class _Number(NamedTuple):
    """One number of a job: its series, and where it stands in the status or in the data of a progress event."""

    name: str
    help: str
    status: tuple[str, ...] = ()
    event: str = ""


_NUMBERS: Final = (
    _Number("attempt", "The attempt that is or was running, counted from 1", ("attempt",)),
    _Number("running_timestamp_seconds", "Since when its pods run; absent while they do not"),
    _Number("reported_timestamp_seconds", "When its trainer last told an event", ("progress", "updatedAt")),
    _Number("checkpoint_step", "Step of the newest checkpoint", ("checkpoint", "step")),
    _Number("checkpoint_saved_timestamp_seconds", "When the newest checkpoint was saved", ("checkpoint", "savedAt")),
    _Number("loss", "Training loss per supervised element", ("progress", "loss"), "loss"),
    _Number("step", "Optimiser steps done", ("progress", "step"), "step"),
    _Number("max_steps", "Optimiser steps planned", ("progress", "maxSteps"), "maxSteps"),
    _Number("epoch", "Passes over the training rows", ("progress", "epoch"), "epoch"),
    _Number(
        "samples_per_second",
        "Rows per second over all processes",
        ("progress", "samplesPerSecond"),
        "samplesPerSecond",
    ),
    _Number("tokens_per_second", "Tokens per second over all processes, padding left out", (), "tokensPerSecond"),
    _Number("learning_rate", "Learning rate of the last step", (), "learningRate"),
    _Number("gradient_norm", "Norm of the last gradient before clipping", (), "gradientNorm"),
    _Number("eta_seconds", "Expected time to the last step", (), "etaSeconds"),
)
_PLACE: Final[Mapping[str, int]] = {number.name: place for place, number in enumerate(_NUMBERS)}
_REPORTED: Final = _PLACE["reported_timestamp_seconds"]
_UNKNOWN: Final = array("d", [math.nan] * len(_NUMBERS))


class _Row(NamedTuple):
    """What the status of a job tells."""

    version: int
    phase: str
    reason: str
    failure: str
    numbers: "array[float]"
    metrics: tuple[tuple[tuple[str, str], float], ...]


@dataclass(slots=True)
class _Told:
    """What the trainer of a job posted."""

    since: str = ""
    """Since when the pods run whose first step was told."""
    numbers: "array[float]" = field(default_factory=lambda: array("d", _UNKNOWN))
    metrics: dict[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])
    """(split, metric) to the last value."""

    def older_than(self, row: _Row) -> bool:
        """Tell whether another operator, which had the Lease meanwhile, wrote down what came later."""
        return self.numbers[_REPORTED] < row.numbers[_REPORTED]


class _Job(NamedTuple):
    """A job during one scrape."""

    labels: str
    row: _Row
    told: _Told | None
    """None when there is none, or when the status has heard of something newer."""

    def number(self, place: int) -> float:
        found = math.nan if self.told is None else self.told.numbers[place]
        return self.row.numbers[place] if math.isnan(found) else found

    def metrics(self) -> Mapping[tuple[str, str], float]:
        return (self.told.metrics if self.told is not None else {}) | dict(self.row.metrics)


class JobSeries:
    """The series of every job."""

    def __init__(self, records: Callable[[], Iterable[Record]]) -> None:
        """Start with nothing told.

        Args:
            records: Returns every job that is held now.
        """
        self._records = records
        self._rows: dict[str, _Row] = {}
        self._told: dict[str, _Told] = {}

    def take(self, record: Record, status: Mapping[str, Any], events: Sequence[ProgressEvent]) -> bool:
        """Take what rank 0 of a job's present attempt posted.

        Args:
            record: The job.
            status: Its status.
            events: The newest of each kind.

        Returns:
            Whether these tell the first optimiser step since its pods run.
        """
        told = self._told.setdefault(record.uid, _Told())
        for event in events:
            told.numbers[_REPORTED] = _seconds(event.at)
            if event.kind == "progress":
                for place, number in enumerate(_NUMBERS):
                    if number.event:
                        told.numbers[place] = _number(event.data.get(number.event))
            elif event.kind == "checkpoint":
                told.numbers[_PLACE["checkpoint_step"]] = _number(event.data.get("step"))
                told.numbers[_PLACE["checkpoint_saved_timestamp_seconds"]] = _seconds(event.at)
            elif event.kind == "evaluation":
                _keep_metrics(told.metrics, event.data)
        return any(event.kind == "progress" for event in events) and _is_first(told, status)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield all series in Prometheus' text format, piece by piece; other work goes on in between."""
        jobs: list[_Job] = []
        present: set[str] = set()
        for record in list(self._records()):
            present.add(record.uid)
            row = self._rows.get(record.uid)
            if row is None or row.version != record.version:
                row = self._rows[record.uid] = _row(record)
            labels = f'namespace="{record.key.namespace}",name="{record.key.name}"'
            told = self._told.get(record.uid)
            jobs.append(_Job(labels, row, told if told is not None and not told.older_than(row) else None))
            if len(jobs) % _ROWS_PER_TURN == 0:
                await asyncio.sleep(0)
        for held in (self._rows, self._told):
            for gone in held.keys() - present:
                del held[gone]
        lines = _lines(jobs)
        while piece := "".join(islice(lines, _LINES_PER_PIECE)):
            yield piece.encode()
            await asyncio.sleep(0)


def _lines(jobs: Sequence[_Job]) -> Iterator[str]:
    yield from _head("finetune_operator_jobs", "FineTuneJobs by phase and the reason of condition Running")
    counts = Counter((job.row.phase, job.row.reason) for job in jobs)
    for (phase, reason), count in sorted(counts.items()):
        yield f'finetune_operator_jobs{{phase="{phase}",reason="{reason}"}} {count}\n'
    yield from _head("finetune_job_state", "1 for the phase of a job and the reason of its condition Running")
    for job in jobs:
        yield f'finetune_job_state{{{job.labels},phase="{job.row.phase}",reason="{job.row.reason}"}} 1\n'
    yield from _head("finetune_job_failure", "1 for the reason why the last attempt ended; none once it is Complete")
    for job in jobs:
        if job.row.failure:
            yield f'finetune_job_failure{{{job.labels},reason="{job.row.failure}"}} 1\n'
    for place, number in enumerate(_NUMBERS):
        yield from _head(f"finetune_job_{number.name}", number.help)
        for job in jobs:
            value = job.number(place)
            if not math.isnan(value):
                yield f"finetune_job_{number.name}{{{job.labels}}} {value!r}\n"
    yield from _head("finetune_job_metric", "Last value of a metric on held-out rows")
    for job in jobs:
        for (split, metric), value in job.metrics().items():
            yield f'finetune_job_metric{{{job.labels},split="{split}",metric="{metric}"}} {value!r}\n'


def _head(name: str, told: str) -> Iterator[str]:
    yield f"# HELP {name} {told}\n# TYPE {name} gauge\n"


def _row(record: Record) -> _Row:
    status: Mapping[str, Any] = record.manifest()["status"]
    running = condition(status, "Running")
    numbers = array("d", (_at(status, number.status) if number.status else math.nan for number in _NUMBERS))
    if running.get("status") == "True":
        numbers[_PLACE["running_timestamp_seconds"]] = _seconds(running.get("lastTransitionTime"))
    metrics: dict[tuple[str, str], float] = {}
    for name, value in ((status.get("result") or {}).get("metrics") or {}).items():
        split, _, metric = name.partition("/")
        _keep_metrics(metrics, {"split": split, "metrics": {metric: value}})
    failure = _word((status.get("failure") or {}).get("reason"))
    phase = _word(record.phase) or _NO_PHASE
    return _Row(record.version, phase, _word(running.get("reason")), failure, numbers, tuple(metrics.items()))


def _is_first(told: _Told, status: Mapping[str, Any]) -> bool:
    """Tell, once for each time that pods came to run, that their first step was told."""
    running = condition(status, "Running")
    since = running.get("lastTransitionTime", "")
    if running.get("status") != "True" or told.since == since:
        return False
    told.since = since
    # An operator that was started meanwhile did not see the first one; the status has a newer one.
    known = _at(status, ("progress", "updatedAt"))
    return math.isnan(known) or known < _seconds(since)


def _keep_metrics(kept: dict[tuple[str, str], float], data: Mapping[str, Any]) -> None:
    """Keep metrics of a set of rows; names come from the pod, so only short plain ones, and not many."""
    split, found = str(data.get("split")), data.get("metrics")
    if not isinstance(found, Mapping) or not _METRIC.fullmatch(split):
        return
    for name, value in found.items():
        number, key = _number(value), (split, str(name))
        if _METRIC.fullmatch(key[1]) and not math.isnan(number) and (key in kept or len(kept) < _MAX_METRICS):
            kept[key] = number


def _at(status: Mapping[str, Any], path: tuple[str, ...]) -> float:
    """Return the number or time at a place of the status, NaN for none."""
    found: Any = status
    for name in path:
        found = (found or {}).get(name)
    return _seconds(found) if path[-1].endswith("At") else _number(found)


def _number(value: object) -> float:
    """Return a finite number; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return math.nan
    return found if math.isfinite(found) else math.nan


def _seconds(text: object) -> float:
    """Return an RFC 3339 time in seconds since the epoch; NaN for anything else."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return math.nan


def _word(text: object) -> str:
    """Return one CamelCase word, which a label may hold as it is; a hostile status has others."""
    if not isinstance(text, str) or not text:
        return ""
    return sys.intern(text) if _WORD.fullmatch(text) else "Other"
