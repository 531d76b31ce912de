"""Write statuses: one patch per decision, onto the version that was decided on, progress within a budget."""

import time

from finetune_api.names import API_VERSION, KIND, job_name
from finetune_operator import cluster as paths
from finetune_operator import errors
from finetune_operator.cluster import Cluster, Object
from finetune_operator.metrics import Metrics
from finetune_operator.queue import DirtyQueue
from finetune_operator.settings import Settings
from finetune_operator.status import Draft, condition
from finetune_operator.store import Store, record_of
from finetune_operator.view import Decision, View


class StatusWriter:
    """Writes the statuses of all jobs."""

    def __init__(self, cluster: Cluster, store: Store, queue: DirtyQueue, settings: Settings, metrics: Metrics) -> None:
        """Start with a full budget."""
        self._cluster = cluster
        self._store = store
        self._queue = queue
        self._settings = settings
        self._metrics = metrics
        self._budget_at = time.monotonic()
        self._budget = settings.status_writes_per_s

    async def write(self, view: View, decision: Decision) -> None:
        """Write what a decision changed; progress alone waits for its job's pace and the budget of all."""
        draft, memory = decision.draft, view.memory
        urgent = draft.patch() is not None
        if not draft.phase or draft.phase in {"Running", "Complete", "Failed", "Suspended", "Restarting"}:
            for name, value in memory.report.parts.items():
                kept = draft.value.get(name)
                draft.value[name] = {**kept, **value} if name == "resolved" and kept else value
        changes = draft.patch()
        if changes is None:
            return
        if not urgent:
            wait_s = self._progress_wait_s(memory.written_at)
            if wait_s > 0 or draft.holds("Finished"):
                if not draft.holds("Finished"):
                    self._queue.add_later(view.key, wait_s)
                return
        await self._patch_status(view, changes)
        memory.written_at = time.monotonic()
        self._count(view, draft, changes)

    def _count(self, view: View, draft: Draft, changes: Object) -> None:
        """Count what a written status tells: a failure, how long pods took to run, how long they ran."""
        if "failure" in changes and draft.value.get("failure"):
            self._metrics.failures.labels(draft.value["failure"]["reason"]).inc()
        if draft.holds("Running") and condition(draft.old, "Running").get("status") != "True":
            job = view.children.get(job_name(view.key.name, view.uid, draft.attempt))
            if job is not None:
                self._metrics.queue_seconds.observe((view.now - job.created_at).total_seconds())
        if "completionTime" in changes and "startTime" in draft.value:
            self._metrics.train_seconds.labels(draft.phase).observe(draft.active_s())

    async def _patch_status(self, view: View, changes: Object) -> None:
        """Write the status onto the very version that was decided on; a conflict is decided anew."""
        body: Object = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"resourceVersion": str(view.version), "uid": view.uid},
            "status": changes,
        }
        path = paths.finetunejobs(view.key.namespace, view.key.name, "status")
        try:
            self._store.put(record_of(await self._cluster.patch(path, body)))
        except errors.NotFound:
            self._store.remove(view.key, view.uid, view.version)
        except errors.Conflict:
            await self._read_again(view)
            raise

    async def _read_again(self, view: View) -> None:
        try:
            self._store.put(record_of(await self._cluster.get(paths.finetunejobs(*view.key))))
        except errors.NotFound:
            self._store.remove(view.key, view.uid, view.version)

    def _progress_wait_s(self, written_at: float) -> float:
        """Return how long progress has to wait: its job's own pace, and the budget of all; takes from the budget."""
        now = time.monotonic()
        own_s = written_at + self._settings.progress_every_s - now
        if own_s > 0:
            return own_s
        rate = self._settings.status_writes_per_s
        self._budget = min(rate, self._budget + (now - self._budget_at) * rate)
        self._budget_at = now
        if self._budget < 1:
            return (1 - self._budget) / rate
        self._budget -= 1
        return 0.0
