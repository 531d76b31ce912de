"""Tell what happens: one JSON line per event, Prometheus metrics, a heartbeat file, and trackers when asked for.

Process 0 reports; the others hold a `Reporter` whose methods do nothing but the heartbeat.
"""

import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from finetune_api.names import EVENTS_FILE
from finetune_api.progress import EventKind, ProgressEvent
from finetune_trainer.node import heartbeat_file
from finetune_trainer.runtime import Decision

_HEARTBEAT_EVERY_S = 1.0


class Tracker(Protocol):
    """A place for curves: TensorBoard, Weights & Biases, MLflow."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of a step."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class Metrics:
    """The Prometheus series of one run. Steps and epochs are values, never labels."""

    def __init__(self) -> None:
        """Register every series."""
        self.registry = CollectorRegistry()
        gauge = {
            "loss": "Training loss per supervised element",
            "learning_rate": "Learning rate of the last step",
            "gradient_norm": "Norm of the last gradient before clipping",
            "samples_per_second": "Rows per second over all processes",
            "tokens_per_second": "Tokens per second over all processes, padding left out",
            "step": "Optimiser steps done",
            "max_steps": "Optimiser steps planned",
            "epoch": "Passes over the training rows",
            "eta_seconds": "Expected time to the last step",
        }
        self.train = {
            name: Gauge(f"finetune_train_{name}", text, registry=self.registry) for name, text in gauge.items()
        }
        self.evaluation = Gauge(
            "finetune_eval_metric", "Last value of a metric", ["split", "metric"], registry=self.registry
        )
        self.saved_step = Gauge("finetune_checkpoint_step", "Step of the newest checkpoint", registry=self.registry)
        self.saves = Counter("finetune_checkpoint_saves", "Checkpoints written", registry=self.registry)

    def serve(self, address: str) -> str:
        """Serve the metrics at `host:port` (port 0: any free one) and return their URL."""
        host, _, port = address.rpartition(":")
        server, _ = start_http_server(int(port), addr=host, registry=self.registry)
        return f"http://{host}:{server.server_port}/metrics"


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
        self._heartbeat_file = (beats or work) / heartbeat_file(rank)
        self._beat_at = 0.0
        self._trackers = dict(trackers or {})
        self.metrics = Metrics()
        # Line buffered: a kill loses no complete event.
        self._events = (work / EVENTS_FILE).open("a", buffering=1, encoding="utf-8") if rank == 0 else None

    def decision(self, decision: Decision) -> None:
        """Report what was decided and why."""
        text = f"{decision.name}: {decision.value} ({decision.reason})"
        self._emit("decision", text, {"name": decision.name, "value": decision.value, "reason": decision.reason})

    def phase(self, name: str, message: str) -> None:
        """Report what the run does now."""
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
        for key, series in self.metrics.train.items():
            camel = "".join(part.title() if i else part for i, part in enumerate(key.split("_")))
            series.set(values[camel])
        step = int(values["step"])
        for tracker in self._trackers.values():
            tracker.log(step, {f"train/{name}": value for name, value in values.items() if name not in _NOT_TRACKED})
        text = f"step {step}/{int(values['maxSteps'])} loss {values['loss']:.4f}"
        self._emit("progress", text, dict(values))

    def evaluation(self, split: str, step: int, metrics: Mapping[str, float]) -> None:
        """Report the metrics of a set of rows."""
        if self._events is None:
            return
        for name, value in metrics.items():
            self.metrics.evaluation.labels(split, name).set(value)
        for tracker in self._trackers.values():
            tracker.log(step, {f"{split}/{name}": value for name, value in metrics.items()})
        told = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self._emit("evaluation", f"{split}: {told}", {"step": step, "split": split, "metrics": dict(metrics)})

    def checkpoint(self, step: int, path: str) -> None:
        """Report a checkpoint that is on disk."""
        self.metrics.saved_step.set(step)
        self.metrics.saves.inc()
        self._emit("checkpoint", f"saved step {step}", {"step": step, "path": path})

    def heartbeat(self) -> None:
        """Show the launcher that this process works; called from every loop, written once a second at most."""
        now = time.monotonic()
        if now - self._beat_at >= _HEARTBEAT_EVERY_S:
            self._beat_at = now
            self._heartbeat_file.touch()

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
