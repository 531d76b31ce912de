"""Run trials on this machine, one after the other: each is a run of the trainer as `finetune run` makes it."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_api.exit_codes import Reason, reason_of
from finetune_api.names import CHECKPOINTS_DIR, EVENTS_FILE
from finetune_api.progress import ProgressEvent
from finetune_api.result import Failure, Result
from finetune_api.spec import FineTuneJob
from finetune_cli.follow import Follower, Start
from finetune_cli.resolve import Run, resolve
from finetune_cli.sweep.runner import Leg, Values

TRIALS_DIR = "trials"


class LocalRunner:
    """Trials below a sweep's work folder, with the caches that runs beside the sweep have."""

    def __init__(self, metric: str, file: Path, work: Path, start: Start) -> None:
        """Remember where.

        Args:
            metric: What is watched on the validation rows.
            file: The sweep's file; relative addresses start at its folder.
            work: The sweep's work folder.
            start: Starts a trainer.
        """
        self._metric = metric
        self._file = file
        self._work = work
        self._start = start

    def run(self, number: int, job: FineTuneJob, until: int | None, on_value: Callable[[Values], None]) -> Leg:
        """Run a trial."""
        run = self._resolved(number, job)
        watch = _Watch(self._metric, until)
        before = run.finished_before()
        if before is not None or run.has_checkpoint():
            for event in _events(run.work / EVENTS_FILE):
                watch.add(event)
        if before is None and watch.is_over():
            return Leg("Paused", watch.values[:until])
        follower = Follower(run, watch.add, self._start)
        watch.stop, watch.on_value = follower.stop, on_value
        result, code = (before, 0) if before is not None else follower.go()
        if watch.unknown is not None:
            return Leg("Failed", failure=watch.unknown)
        if result is None and code >= 0:
            message = f"the trainer left no result; its log ends: {follower.log_tail()}"
            result = Result(outcome="Failed", failure=Failure.of(reason_of(code) or Reason.UNKNOWN, message))
        if result is None or (result.outcome == "Interrupted" and (follower.interrupted or not watch.is_over())):
            return Leg("Interrupted", watch.values)
        if result.outcome == "Interrupted":
            return Leg("Paused", watch.values[:until])
        return Leg(result.outcome, watch.values, result.metrics, result.artifact, result.failure)

    def drop(self, number: int) -> None:
        """Delete a trial's artifact and checkpoints; its events and its result stay."""
        for name in ("artifact", CHECKPOINTS_DIR):
            shutil.rmtree(self.work_of(number) / name, ignore_errors=True)

    def work_of(self, number: int) -> Path:
        """Return a trial's work folder."""
        return self._work / TRIALS_DIR / f"{number:04d}"

    def _resolved(self, number: int, job: FineTuneJob) -> Run:
        run = resolve(job, self._file, self.work_of(number))
        # One cache for all trials, and for the runs of the same folder: tokens and what frozen blocks answer.
        paths = run.config.paths.model_copy(update={"cache": str(self._work.parent / "cache")})
        return replace(run, config=run.config.model_copy(update={"paths": paths}))


class _Watch:
    """Reads a trial's events, and stops it when it has been judged often enough."""

    def __init__(self, metric: str, until: int | None) -> None:
        self._metric = metric
        self._until = until
        self._by_step: dict[int, float | None] = {}
        self._max_steps: int | None = None
        # Set once it runs; what an earlier run left is read before.
        self.stop: Callable[[], None] = lambda: None
        self.on_value: Callable[[Values], None] = lambda _: None
        self.unknown: Failure | None = None
        """Set when the task has no such metric."""

    @property
    def values(self) -> Values:
        """The objective after each evaluation; one that was repeated after a stop counts once."""
        return tuple(self._by_step[step] for step in sorted(self._by_step))

    def is_over(self) -> bool:
        """Tell whether the trial is to pause: not with its last step, since its end is near then."""
        if self._until is None or len(self._by_step) < self._until:
            return False
        return sorted(self._by_step)[self._until - 1] != self._max_steps

    def add(self, event: ProgressEvent) -> None:
        """Take an event into account."""
        data: dict[str, Any] = dict(event.data)
        if event.kind == "decision" and data["name"] == "steps":
            self._max_steps = int(data["value"])
        if event.kind != "evaluation" or data["split"] != "validation":
            return
        if self._metric not in data["metrics"]:
            message = f"spec.objective.metric: the task has no metric {self._metric!r}"
            self.unknown = Failure.of(Reason.CONFIG_ERROR, message, f"Choose from {', '.join(data['metrics'])}.")
            self.stop()
            return
        value: float | None = data["metrics"][self._metric]
        self._by_step[data["step"]] = value if value is None or math.isfinite(value) else None
        self.on_value(self.values)
        if self.is_over():
            self.stop()


def _events(file: Path) -> list[ProgressEvent]:
    """Return the events of an earlier run; a line that a kill tore is left out."""
    found: list[ProgressEvent] = []
    for line in file.read_bytes().splitlines() if file.exists() else ():
        try:
            found.append(ProgressEvent.from_json(line))
        except ValueError:
            continue
    return found
