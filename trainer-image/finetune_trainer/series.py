"""The Prometheus series of one run, told by process 0. What is not known yet is left out, never told as 0.

Steps and epochs are values, never labels; the labels are names of phases, sets of rows, metrics and GPUs.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

# Key of a progress event -> name below finetune_train_ and help.
_TRAIN: Final[Mapping[str, tuple[str, str]]] = {
    "loss": ("loss", "Training loss per supervised element"),
    "learningRate": ("learning_rate", "Learning rate of the last step"),
    "gradientNorm": ("gradient_norm", "Norm of the last gradient before clipping"),
    "samplesPerSecond": ("samples_per_second", "Rows per second over all processes"),
    "tokensPerSecond": ("tokens_per_second", "Tokens per second over all processes, padding left out"),
    "step": ("step", "Optimiser steps done"),
    "maxSteps": ("max_steps", "Optimiser steps planned"),
    "epoch": ("epoch", "Passes over the training rows"),
    "etaSeconds": ("eta_seconds", "Expected time to the last step"),
}
_DEVICE: Final[Mapping[str, str]] = {
    "utilization_ratio": "Part of the last second in which a kernel ran on the GPU",
    "memory_used_bytes": "Memory of the GPU that is in use, by all processes",
    "memory_total_bytes": "Memory that the GPU has",
    "temperature_celsius": "Temperature of the GPU",
    "power_watts": "Power that the GPU draws",
}


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU at one moment; None where the driver does not tell."""

    index: int
    utilization_ratio: float | None
    """Part of the last second in which a kernel ran."""
    memory_used_bytes: float | None
    """Of all processes on it."""
    memory_total_bytes: float
    temperature_celsius: float | None
    power_watts: float | None


class Metrics(Collector):
    """Keeps the newest values and makes series of them when they are asked for, in the server's own thread."""

    def __init__(self, read_devices: Callable[[], Sequence[Device]], now: Callable[[], float] = time.time) -> None:
        """Start with nothing known.

        Args:
            read_devices: Returns the GPUs of this machine as they are now.
            now: Returns seconds since the epoch.
        """
        self.registry = CollectorRegistry()
        self._read_devices = read_devices
        self._now = now
        self._lock = threading.Lock()
        self._train: Mapping[str, float] = {}
        self._beat_at: float | None = None
        self._phase: tuple[str, float] | None = None
        self._phase_seconds: dict[str, float] = {}
        self._evaluations: dict[tuple[str, str], float] = {}
        self._checkpoint: tuple[int, float, int] | None = None
        self._saves = 0
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def progress(self, values: Mapping[str, float]) -> None:
        """Keep the values of a step."""
        self._train = dict(values)

    def beat(self) -> None:
        """Note that process 0 works."""
        self._beat_at = self._now()

    def phase(self, name: str) -> None:
        """Begin a phase of the run, and end the one before."""
        with self._lock:
            self._phase_seconds = self._seconds_by_phase()
            self._phase = (name, self._now())

    def evaluation(self, split: str, metrics: Mapping[str, float]) -> None:
        """Keep the metrics of a set of rows."""
        with self._lock:
            self._evaluations |= {(split, name): value for name, value in metrics.items()}

    def checkpoint(self, step: int, size_bytes: int) -> None:
        """Note a checkpoint that is on disk."""
        with self._lock:
            self._checkpoint = (step, self._now(), size_bytes)
            self._saves += 1

    def serve(self, address: str) -> str:
        """Serve the metrics at `host:port` (port 0: any free one) and return their URL."""
        host, _, port = address.rpartition(":")
        server, _ = start_http_server(int(port), addr=host, registry=self.registry)
        return f"http://{host}:{server.server_port}/metrics"

    def collect(self) -> Iterator[Metric]:
        """Yield the present values."""
        train = self._train
        for key, (name, told) in _TRAIN.items():
            yield _gauge(f"finetune_train_{name}", told, train.get(key))
        told = "When process 0 last showed that it works, between the passes of a step too"
        yield _gauge("finetune_train_heartbeat_timestamp_seconds", told, self._beat_at)
        with self._lock:
            phases, evaluations = self._seconds_by_phase(), dict(self._evaluations)
            checkpoint, saves = self._checkpoint, self._saves
        family = GaugeMetricFamily("finetune_train_phase_seconds", "Time spent in a phase of the run", labels=["phase"])
        for phase, seconds in phases.items():
            family.add_metric([phase], seconds)
        yield family
        family = GaugeMetricFamily(
            "finetune_eval_metric", "Last value of a metric on held-out rows", labels=["split", "metric"]
        )
        for names, value in evaluations.items():
            family.add_metric(names, value)
        yield family
        step, at, size_bytes = checkpoint or (None, None, None)
        yield _gauge("finetune_checkpoint_step", "Step of the newest checkpoint", step)
        yield _gauge("finetune_checkpoint_saved_timestamp_seconds", "When the newest checkpoint was saved", at)
        yield _gauge("finetune_checkpoint_bytes", "Size of the newest checkpoint", size_bytes)
        yield CounterMetricFamily("finetune_checkpoint_saves", "Checkpoints written by this process", value=saves)
        yield from self._devices()

    def _devices(self) -> Iterator[Metric]:
        devices = self._read_devices()
        for name, told in _DEVICE.items():
            family = GaugeMetricFamily(f"finetune_gpu_{name}", told, labels=["device"])
            for device in devices:
                value: float | None = getattr(device, name)
                if value is not None:
                    family.add_metric([str(device.index)], value)
            yield family

    def _seconds_by_phase(self) -> dict[str, float]:
        """Return the time in each phase so far, the present one included."""
        found = dict(self._phase_seconds)
        if self._phase is not None:
            name, since = self._phase
            found[name] = found.get(name, 0.0) + self._now() - since
        return found


def _gauge(name: str, told: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(name, told)
    if value is not None:
        family.add_metric([], value)
    return family
