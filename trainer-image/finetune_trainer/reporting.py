"""Tell what happens: one JSON line per event, Prometheus metrics, a heartbeat file, and trackers when asked for.

Process 0 reports; the others hold a `Reporter` whose methods do nothing but the heartbeat.
"""

import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from finetune_api.names import EVENTS_FILE
from finetune_api.progress import EventKind, ProgressEvent
from finetune_trainer import devices
from finetune_trainer.node import heartbeat_file
from finetune_trainer.runtime import Decision
from finetune_trainer.series import Metrics

_HEARTBEAT_EVERY_S = 1.0


class Tracker(Protocol):
    """A place for curves: TensorBoard, Weights & Biases, MLflow."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of a step."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class Reporter:
    """Writes events; a process other than 0 has no event file and only keeps its heartbeat."""

    def __init__(
        self, work: Path, rank: int, trackers: Mapping[str, Tracker] | None = None, beats: Path | None = None
    ) -> None:
        """Open the event file.

        Args:
            work: The run's work folder.
            rank: Number of this process.
            trackers: Where curves go besides the events.
            beats: Where the launcher looks for heartbeats; the work folder when absent.
        """
        self._work = work
        self._heartbeat_file = (beats or work) / heartbeat_file(rank)
        self._beat_at = 0.0
        self._trackers = dict(trackers or {})
        self.metrics = Metrics(devices.read)
        # Line buffered: a kill loses no complete event.
        self._events = (work / EVENTS_FILE).open("a", buffering=1, encoding="utf-8") if rank == 0 else None

    def decision(self, decision: Decision) -> None:
        """Report what was decided and why."""
        text = f"{decision.name}: {decision.value} ({decision.reason})"
        self._emit("decision", text, {"name": decision.name, "value": decision.value, "reason": decision.reason})

    def phase(self, name: str, message: str) -> None:
        """Report what the run does now."""
        self.metrics.phase(name)
        self._emit("phase", message, {"name": name})

    def warning(self, message: str) -> None:
        """Report what a person should know."""
        self._emit("warning", message, {})

    def progress(self, values: Mapping[str, float]) -> None:
        """Report a step.

        Args:
            values: step, maxSteps, epoch, percent, loss, samplesPerSecond, tokensPerSecond, learningRate,
                gradientNorm and etaSeconds.
        """
        if self._events is None:
            return
        self.metrics.progress(values)
        step = int(values["step"])
        for tracker in self._trackers.values():
            tracker.log(step, {f"train/{name}": value for name, value in values.items() if name not in _NOT_TRACKED})
        text = f"step {step}/{int(values['maxSteps'])} loss {values['loss']:.4f}"
        self._emit("progress", text, dict(values))

    def evaluation(self, split: str, step: int, metrics: Mapping[str, float]) -> None:
        """Report the metrics of a set of rows."""
        if self._events is None:
            return
        self.metrics.evaluation(split, metrics)
        for tracker in self._trackers.values():
            tracker.log(step, {f"{split}/{name}": value for name, value in metrics.items()})
        told = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self._emit("evaluation", f"{split}: {told}", {"step": step, "split": split, "metrics": dict(metrics)})

    def checkpoint(self, step: int, path: str) -> None:
        """Report a checkpoint that is on disk, at a path below the work folder."""
        size_bytes = sum(each.stat().st_size for each in (self._work / path).rglob("*") if each.is_file())
        self.metrics.checkpoint(step, size_bytes)
        self._emit("checkpoint", f"saved step {step}", {"step": step, "path": path})

    def heartbeat(self) -> None:
        """Show the launcher that this process works; called from every loop, written once a second at most."""
        now = time.monotonic()
        if now - self._beat_at >= _HEARTBEAT_EVERY_S:
            self._beat_at = now
            self._heartbeat_file.touch()
            self.metrics.beat()

    def close(self) -> None:
        """Close the event file and the trackers."""
        for tracker in self._trackers.values():
            tracker.close()
        if self._events is not None:
            self._events.close()
            self._events = None

    def _emit(self, kind: EventKind, message: str, data: Mapping[str, Any]) -> None:
        self.heartbeat()
        if self._events is None:
            return
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        event = ProgressEvent(kind=kind, at=at, message=message, data=_finite(data))
        self._events.write(event.to_json() + "\n")


_NOT_TRACKED = frozenset({"step", "maxSteps", "percent", "etaSeconds"})


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(each) for name, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def open_trackers(names: list[str], folder: Path, job: str) -> dict[str, Tracker]:
    """Open the trackers that the manifest names.

    Args:
        names: tensorboard, wandb or mlflow.
        folder: Where files of trackers go.
        job: Name of the run.

    Returns:
        The trackers by name.
    """
    from finetune_trainer import trackers  # noqa: PLC0415 - their packages are optional and slow

    openers: Mapping[str, Callable[[Path, str], Tracker]] = trackers.OPENERS
    return {name: openers[name](folder, job) for name in names}
