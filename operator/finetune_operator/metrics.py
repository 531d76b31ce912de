"""The operator's Prometheus series, and the last values of each job that lives.

A job's values are kept as one small tuple and become series when they are asked for: 10,000 jobs in client objects
would need 80 MiB. Steps, epochs and uids are never labels.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_PASS_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
# Key in a progress event -> name and help of the series.
_VALUES: Final[Mapping[str, tuple[str, str]]] = {
    "loss": ("loss", "Training loss per supervised element"),
    "step": ("step", "Optimiser steps done"),
    "maxSteps": ("max_steps", "Optimiser steps planned"),
    "epoch": ("epoch", "Passes over the training rows"),
    "samplesPerSecond": ("samples_per_second", "Rows per second over all processes"),
    "tokensPerSecond": ("tokens_per_second", "Tokens per second over all processes, padding left out"),
    "learningRate": ("learning_rate", "Learning rate of the last step"),
    "gradientNorm": ("gradient_norm", "Norm of the last gradient before clipping"),
    "etaSeconds": ("eta_seconds", "Expected time to the last step"),
}
JobName = tuple[str, str]


class Metrics:
    """Every series of one operator."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register every series.

        Args:
            registry: Where; one per process.
        """
        self.registry = registry
        self.reconcile_seconds = Histogram(
            "finetune_operator_reconcile_seconds",
            "Time of one pass for one job",
            buckets=_PASS_BUCKETS_S,
            registry=registry,
        )
        self.queue_depth = Gauge("finetune_operator_queue_depth", "Jobs that wait for a pass", registry=registry)
        self.writes = Counter(
            "finetune_operator_writes",
            "Writes to the API server by what came of them",
            ["verb", "resource", "result"],
            registry=registry,
        )
        self.watch_restarts = Counter(
            "finetune_operator_watch_restarts",
            "Watches that broke and were started again",
            ["resource"],
            registry=registry,
        )
        self.progress_posts = Counter(
            "finetune_operator_progress_posts", "Progress that was posted, by verdict", ["verdict"], registry=registry
        )
        self.failures = Counter(
            "finetune_operator_failures", "Failures written to a status, by reason", ["reason"], registry=registry
        )
        self.count_jobs: Callable[[], Mapping[str, int]] = dict
        """Asked at each scrape for the number of jobs by phase."""
        self._jobs: dict[JobName, tuple[float, ...]] = {}
        registry.register(_Live(self))

    def observe_job(self, namespace: str, name: str, data: Mapping[str, object]) -> None:
        """Keep the values of a job's newest progress event; what it lacks becomes NaN."""
        self._jobs[namespace, name] = tuple(_number(data.get(key)) for key in _VALUES)

    def forget(self, namespace: str, name: str) -> None:
        """Drop the values of a job that is gone."""
        self._jobs.pop((namespace, name), None)

    def job_values(self) -> list[tuple[JobName, tuple[float, ...]]]:
        """Return the values of every live job, as they are now."""
        return list(self._jobs.items())


class _Live(Collector):
    """Makes series of what is known when they are asked for."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name the series without counting jobs, for the registry's check of names."""
        yield self._phases({})
        yield from self._values([])

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the present values."""
        yield self._phases(self._metrics.count_jobs())
        yield from self._values(self._metrics.job_values())

    @staticmethod
    def _phases(counts: Mapping[str, int]) -> GaugeMetricFamily:
        family = GaugeMetricFamily("finetune_operator_jobs", "FineTuneJobs by phase", labels=["phase"])
        for phase, count in sorted(counts.items()):
            family.add_metric([phase], count)
        return family

    @staticmethod
    def _values(jobs: list[tuple[JobName, tuple[float, ...]]]) -> Iterator[GaugeMetricFamily]:
        for index, (name, told) in enumerate(_VALUES.values()):
            family = GaugeMetricFamily(f"finetune_job_{name}", told, labels=["namespace", "name"])
            for job, values in jobs:
                if not math.isnan(values[index]):
                    family.add_metric(job, values[index])
            yield family


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
