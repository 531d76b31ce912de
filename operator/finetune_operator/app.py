"""The operator's parts put together: watches, store, queue, workers, servers, and how they start and stop.

Everything of ours lives in the main event loop; kopf has a thread of its own (`handlers`).
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry

from finetune_api.names import LABEL_MANAGED_BY, MANAGER
from finetune_operator import cluster as paths
from finetune_operator import errors
from finetune_operator.admission import KUEUE_GROUP, admission_of
from finetune_operator.cluster import Cluster, Object
from finetune_operator.health import Health
from finetune_operator.lease import Lease
from finetune_operator.metrics import Metrics
from finetune_operator.observe import JobFacts, job_facts
from finetune_operator.queue import DirtyQueue, Priority
from finetune_operator.reconcile import Reconciler
from finetune_operator.settings import Settings
from finetune_operator.store import Key, Record, Store, record_of
from finetune_operator.watch import Collection, Watcher

logger = logging.getLogger(__name__)

_RELIST_AT_LEAST_S = 5.0
_PATIENCE_S = 90.0
# How many untouched jobs are worked on before the Jobs are known; each may cost a POST of what exists.
_FRESH = 100
# How long a Kueue that is installed after this process may go unheard.
_LOOK_FOR_KUEUE_S = 15.0
_JOBS, _FINETUNEJOBS = "Jobs", "FineTuneJobs"


class Operator:
    """One operator process."""

    def __init__(self, cluster: Cluster, settings: Settings, lease: Lease | None) -> None:
        """Put the parts together.

        Args:
            cluster: An open connection.
            settings: What the administrator decided.
            lease: The right to act; None when there is no other operator.
        """
        rng = random.Random()
        self.cluster = cluster
        self.settings = settings
        self.store = Store()
        self.metrics = Metrics(CollectorRegistry())
        self.queue = DirtyQueue(settings.retry_limit_s, rng)
        self.reconciler = Reconciler(cluster, self.store, self.queue, settings, self.metrics)
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[tuple[str | None, Mapping[str, Any]]] = deque()
        self._fresh: set[Key] = set()
        self._listed_at = float("-inf")
        self._relist = asyncio.Event()
        self._synced = asyncio.Event()
        self._acting = asyncio.Event()
        self.health = Health(cluster, settings)
        self._jobs = Watcher(cluster, self._job_collection(), rng)
        cluster.on_write = self._count_write
        self.reconciler.may_act = self._may_act
        if lease is not None:
            cluster.may_write = lambda: lease.held() or not self._acting.is_set()

    def tasks(self) -> list[asyncio.Task[None]]:
        """Start everything that runs until cancelled."""
        self.health.expect(_JOBS, _PATIENCE_S)
        self.health.expect(_FINETUNEJOBS, _PATIENCE_S)
        parts = [self._jobs.run(), self._keep_listed(), self._keep_admissions(), self._start_workers()]
        parts.append(self.health.rehearse())
        return [asyncio.create_task(part) for part in parts]

    def receive(self, kind: str | None, body: Mapping[str, Any]) -> None:
        """Take an event of a FineTuneJob; called from kopf's thread."""
        # First the event, then the call: the other way round the main loop may look before it is there.
        self._inbox.append((kind, body))
        self._loop.call_soon_threadsafe(self._drain)

    def watch_restarted(self, why: str) -> None:
        """Note that kopf lists anew: what was deleted meanwhile shows in a list of ours alone. Any thread may call.

        Args:
            why: What ended it; empty when it goes on by itself.
        """
        self.metrics.watch_restarts.labels("finetunejobs").inc()
        if why:
            self.health.ended("the watch of FineTuneJobs", why)
        self._loop.call_soon_threadsafe(self._relist.set)

    def holder(self) -> str | None:
        """Return None where this process acts, empty on a standby: a Lease tells no address of its holder."""
        return None if self._lease is None or self._lease.held() else ""

    async def served(self) -> bool:
        """Tell whether the API server serves FineTuneJobs to us; what is missing is told by /healthz."""
        try:
            await self.cluster.get(paths.finetunejobs(*self.settings.namespaces[:1]), limit="1")
        except errors.NotFound:
            self.health.tell(_FINETUNEJOBS, "the API server does not serve FineTuneJobs: the CRD is missing")
        except errors.Refused as error:
            self.health.tell(_FINETUNEJOBS, f"a permission is missing: {error}")
        except errors.ClusterError as error:
            logger.info("discovery: %s", error)
        else:
            self.health.tell(_FINETUNEJOBS, "")
            return True
        return False

    async def listed(self) -> None:
        """Wait until every FineTuneJob was listed once."""
        await self._synced.wait()

    async def _start_workers(self) -> None:
        if self._lease is not None:
            await self._lease.acquired.wait()
        self._acting.set()
        await asyncio.gather(*(self.reconciler.work() for _ in range(self.settings.workers)))

    def _may_act(self, record: Record) -> bool:
        """Tell whether to work on a job now.

        A new one needs nothing but itself, which is why it is first after a start; for the others the Jobs must be
        known. A standby keeps what it hears and acts when the lease is its own.
        """
        ready = self._jobs.synced.is_set() or (not record.phase and record.key in self._fresh)
        return ready and (self._lease is None or self._lease.held())

    def _drain(self) -> None:
        while self._inbox:
            kind, body = self._inbox.popleft()
            record = record_of(body)
            if kind == "DELETED":
                self.store.remove(record.key, record.uid, record.version)
            elif self.store.put(record):
                if kind == "ADDED" and not self._jobs.synced.is_set():
                    self._fresh.add(record.key)
                self.queue.add(record.key, Priority.FINISH if record.finished else Priority.NEW)

    async def _keep_listed(self) -> None:
        """List FineTuneJobs at the start, after a broken watch, and now and then; untouched ones come first."""
        wait_s = 0.1
        while True:
            try:
                if not self._synced.is_set():
                    await self._list_untouched()
                await self._list()
                self._synced.set()
                self.health.expect(_FINETUNEJOBS, self.settings.relist_every_s + _PATIENCE_S)
                wait_s = 0.1
            except errors.ClusterError as error:
                logger.warning("list of FineTuneJobs: %s", error)
                await asyncio.sleep(error.retry_after_s or wait_s)
                wait_s = min(5.0, wait_s * 2)
                continue
            self._relist.clear()
            try:
                await asyncio.wait_for(self._relist.wait(), self.settings.relist_every_s)
                await asyncio.sleep(max(0.0, self._listed_at + _RELIST_AT_LEAST_S - time.monotonic()))
            except TimeoutError:
                self._jobs.relist()

    async def _list_untouched(self) -> None:
        """List the jobs that have no status yet; the newest ones are likely to have no Job either, and come first."""
        found: list[Record] = []
        for namespace in self.settings.namespaces or ("",):
            async for page in self.cluster.pages(paths.finetunejobs(namespace), fieldSelector="status.phase="):
                found += map(record_of, page["items"])
        found.sort(key=lambda record: -record.version)
        self._fresh.update(each.key for each in found[:_FRESH])
        for record in found:
            if self.store.put(record):
                self.queue.add(record.key)

    async def _list(self) -> None:
        self._listed_at = time.monotonic()
        for namespace in self.settings.namespaces or ("",):
            listed: set[str] = set()
            version = 0
            async for page in self.cluster.pages(paths.finetunejobs(namespace)):
                version = int(page["metadata"]["resourceVersion"])
                for record in map(record_of, page["items"]):
                    listed.add(record.uid)
                    if self.store.put(record):
                        self.queue.add(record.key, Priority.ROUTINE)
            for key in self.store.purge(namespace, listed, version):
                self.queue.add(key, Priority.ROUTINE)

    async def _keep_admissions(self) -> None:
        """Watch Kueue's Workloads where it is installed; looked for again now and then."""
        while True:
            try:
                group = await self.cluster.get(f"/apis/{KUEUE_GROUP}")
                root = f"/apis/{group['preferredVersion']['groupVersion']}"
                await Watcher(self.cluster, self._workload_collection(root), random.Random()).run()
            except errors.ClusterError:
                await asyncio.sleep(_LOOK_FOR_KUEUE_S)

    def _workload_collection(self, root: str) -> Collection:
        namespaces = self.settings.namespaces or ("",)
        return Collection(
            paths=tuple(paths.resource(root, "workloads", each) for each in namespaces),
            on_list=self._workloads_listed,
            on_event=self._workload_event,
            on_restart=lambda: self.metrics.watch_restarts.labels("workloads").inc(),
            idle_s=self.settings.watch_idle_s,
        )

    def _workloads_listed(self, items: list[Object], _version: int) -> None:
        for body in items:
            self._workload_event("ADDED", body)

    def _workload_event(self, kind: str, body: Object) -> None:
        uid, job, admission = admission_of(body)
        if kind == "DELETED":
            self.store.admissions.pop(uid, None)
        elif uid and self.store.admissions.get(uid) != admission:
            self.store.admissions[uid] = admission
            self._touch(self.store.owner_of(body["metadata"]["namespace"], job))

    def _job_collection(self) -> Collection:
        namespaces = self.settings.namespaces or ("",)
        return Collection(
            paths=tuple(paths.jobs(each) for each in namespaces),
            read=job_facts,
            on_list=self._jobs_listed,
            on_event=self._job_event,
            on_restart=lambda: self.metrics.watch_restarts.labels("jobs").inc(),
            idle_s=self.settings.watch_idle_s,
            selectors={"labelSelector": f"{LABEL_MANAGED_BY}={MANAGER}"},
            on_sign=lambda: self.health.expect(_JOBS, self.settings.watch_idle_s + _PATIENCE_S),
        )

    def _jobs_listed(self, items: list[JobFacts], version: int) -> None:
        # A list that succeeds after a broken watch is how an outage ends.
        self.queue.hurry()
        for uid in self.store.replace_jobs(items, version):
            self._touch(uid)

    def _job_event(self, kind: str, body: Object) -> None:
        facts = job_facts(body)
        changed = self.store.remove_job(facts) if kind == "DELETED" else self.store.put_job(facts)
        if changed:
            self._touch(facts.owner_uid, urgent=facts.ended or bool(facts.terminating))

    def _touch(self, uid: str, *, urgent: bool = False) -> None:
        key = self.store.key_of(uid)
        if key is not None:
            self.queue.add(key, Priority.FINISH if urgent else Priority.NEW)

    def _count_write(self, verb: str, plural: str, result: str) -> None:
        self.metrics.writes.labels(verb, plural, result).inc()
