"""The operator's own Prometheus series: its passes, writes, watches and posts, and how long jobs take.

Labels come from closed lists. What is known of each job by name is in `job_series`.
"""

from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from finetune_api.exit_codes import Reason

_PASS_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
_WAIT_BUCKETS_S: Final = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)
_TRAIN_BUCKETS_S: Final = (10.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 86400.0, 259200.0)
# When a counter began is told by its first value; a second series for each says nothing more.
disable_created_metrics()


class Metrics:
    """Every series of one operator, but for those of single jobs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register every series.

        Args:
            registry: Where; one per process.
        """
        self.registry = registry
        ProcessCollector(registry=registry)
        self.acting = Gauge(
            "finetune_operator_acting", "1 where this operator acts, 0 on a standby for its Lease", registry=registry
        )
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
        self.queue_seconds = Histogram(
            "finetune_operator_queue_seconds",
            "Time from the making of an attempt's Job until all its pods run: queue, quota, nodes, images",
            buckets=_WAIT_BUCKETS_S,
            registry=registry,
        )
        self.init_seconds = Histogram(
            "finetune_operator_init_seconds",
            "Time from pods that run until their first optimiser step is told: data, model, checks",
            buckets=_WAIT_BUCKETS_S,
            registry=registry,
        )
        self.train_seconds = Histogram(
            "finetune_operator_train_seconds",
            "Time that pods of a finished job ran, all attempts together, by how it ended",
            ["phase"],
            buckets=_TRAIN_BUCKETS_S,
            registry=registry,
        )
        # A series that begins with its first event hides that event from rate() and increase().
        for resource in ("finetunejobs", "jobs", "workloads"):
            self.watch_restarts.labels(resource)
        for reason in Reason:
            self.failures.labels(reason.value)
        for phase in ("Complete", "Failed"):
            self.train_seconds.labels(phase)
