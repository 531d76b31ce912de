"""The operator's servers wired to its parts: who may post progress, and what becomes of it."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from finetune_api.names import job_name
from finetune_api.progress import ProgressEvent
from finetune_operator.app import Operator
from finetune_operator.job_series import JobSeries
from finetune_operator.progress import Endpoint, ProgressServer, metrics_app
from finetune_operator.queue import Priority
from finetune_operator.status import condition
from finetune_operator.store import Key, Record
from finetune_operator.tls import Certificate
from finetune_operator.tokens import Authority


class Servers:
    """Both servers of one operator."""

    def __init__(self, operator: Operator) -> None:
        """Remember whom they serve; `start` listens."""
        self._operator = operator
        settings = operator.settings
        authority = Authority(operator.cluster.get, operator.cluster.now)
        progress = ProgressServer(authority.check, self._take, operator.metrics, operator.holder)
        certificate = None
        if settings.tls_certificate:
            certificate = Certificate(Path(settings.tls_certificate), Path(settings.tls_key))
        self._progress = Endpoint(progress.app(), settings.progress_address, certificate)
        operator.metrics.acting.set_function(lambda: float(operator.holder() is None))
        operator.metrics.queue_depth.set_function(lambda: len(operator.queue))
        # A standby would tell every job a second time.
        self._series = JobSeries(lambda: () if operator.holder() is not None else operator.store.records.values())
        metrics = metrics_app(operator.metrics.registry, operator.health.problems, self._series.pieces)
        self._metrics = Endpoint(metrics, settings.metrics_address)

    async def start(self) -> dict[str, str]:
        """Listen, and return the addresses by what they are for."""
        return {"metrics": await self._metrics.start(), "progress": await self._progress.start()}

    async def stop(self) -> None:
        """Stop listening."""
        await self._progress.stop()
        await self._metrics.stop()

    def _take(self, namespace: str, job: str, events: Sequence[ProgressEvent]) -> bool:
        """Take events of a Job's rank 0; False unless it is the present attempt of a job that is not over."""
        record = self._owner(namespace, job)
        if record is None or record.finished:
            return False
        status = record.manifest()["status"]
        attempt = max(1, status.get("attempt", 1))
        if job != job_name(record.key.name, record.uid, attempt):
            return False
        memory = self._operator.store.memory(record.uid)
        was_silent = memory.heartbeat_at is None or condition(status, "ProgressStale").get("status") == "True"
        memory.heartbeat_at = self._operator.cluster.now()
        report = memory.report
        changed = [event for event in events if report.add(event)]
        if self._series.take(record, status, events):
            since = datetime.fromisoformat(condition(status, "Running")["lastTransitionTime"])
            self._operator.metrics.init_seconds.observe((self._operator.cluster.now() - since).total_seconds())
        if changed or was_silent:
            self._operator.queue.add(record.key, Priority.ROUTINE)
        return True

    def _owner(self, namespace: str, job: str) -> Record | None:
        uid = self._operator.store.owner_of(namespace, job)
        key: Key | None = self._operator.store.key_of(uid) if uid else None
        return self._operator.store.records.get(key) if key else None
