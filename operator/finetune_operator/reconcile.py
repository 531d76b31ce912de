"""One pass for one job: observe, decide, plan, apply, one status patch. Every pass may be the last: a crash after any
write leaves a state from which the next pass goes on.

New children are posted before the status, deletions come after it.
"""

import asyncio
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from finetune_api.names import JOB_NAME_LABEL, job_name
from finetune_api.spec import FineTuneJob
from finetune_api.validation import InvalidSpec, Problem, validate_manifest
from finetune_operator import cluster as paths
from finetune_operator import ending, errors
from finetune_operator.children import Children
from finetune_operator.cluster import Cluster, Object
from finetune_operator.events import EventWriter
from finetune_operator.lifecycle import decide, tell_blocked
from finetune_operator.metrics import Metrics
from finetune_operator.observe import JobFacts, pod_facts
from finetune_operator.plan import Attempt, Plan, plan, spec_hash, unsupported
from finetune_operator.queue import DirtyQueue
from finetune_operator.settings import Settings
from finetune_operator.status import Draft
from finetune_operator.status_writer import StatusWriter
from finetune_operator.store import Blocked, Key, Purpose, Record, Store, record_of
from finetune_operator.view import Decision, View

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

_LOOKS_PER_PASS = 2
_LOOK_AGAIN_S = 60.0
# Over all jobs whose pods wait: however many they are, an idle operator stays idle.
_LOOKS_PER_S = 4.0
_NOT_YET_S = 0.5
_TOLD_AFTER = 8


class Reconciler:
    """Brings jobs to what they should be, one pass at a time per key."""

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        queue: DirtyQueue,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        """Remember the parts; `work` starts."""
        self._cluster = cluster
        self._store = store
        self._queue = queue
        self._settings = settings
        self._metrics = metrics
        self._events = EventWriter(cluster)
        self._children = Children(cluster, store, queue, settings)
        self._status = StatusWriter(cluster, store, queue, settings, metrics)
        self.may_act: Callable[[Record], bool] = lambda _record: True

    async def work(self) -> None:
        """Take keys until cancelled; a pass that fails is tried again with a growing wait, whatever it was."""
        while True:
            key = await self._queue.get()
            started = time.perf_counter()
            try:
                await self._pass(key)
                self._queue.done(key)
            except errors.ClusterError as error:
                wait_s = self._queue.failed(key, error.retry_after_s)
                logger.info("%s: again in %.2f s: %s", key, wait_s, error)
            except asyncio.CancelledError:
                raise
            except Exception:
                wait_s = self._queue.failed(key)
                logger.exception("%s: internal error, again in %.2f s", key, wait_s)
            self._metrics.reconcile_seconds.observe(time.perf_counter() - started)

    async def _pass(self, key: Key) -> None:
        record = self._store.records.get(key)
        # A job that is being deleted may be held for long by a finalizer of somebody else: it is theirs.
        if record is None or record.deleting:
            return
        if not self.may_act(record):
            self._queue.add_later(key, _NOT_YET_S)
            return
        if self._store.vanished(record.uid) and not await self._still_there(record):
            return
        manifest = record.manifest()
        view = self._view(record, manifest)
        try:
            view, decision, planned = await self._decide(view, manifest)
            await self._apply(view, decision, planned)
        except errors.NamespaceTerminating:
            # Everything in it goes; there is nobody to tell.
            return

    async def _still_there(self, record: Record) -> bool:
        """Ask for the owner of a Job that went away: its garbage collection looks the same as a deletion by hand."""
        key = record.key
        try:
            found = record_of(await self._cluster.get(paths.finetunejobs(key.namespace, key.name)))
        except errors.NotFound:
            found = None
        if found is None or found.uid != record.uid:
            self._store.remove(key, record.uid, record.version)
            if found is not None and self._store.put(found):
                self._queue.add(key)
            return False
        self._store.settle(record.uid)
        if self._store.put(found):
            self._queue.add(key)
            return False
        return True

    def _view(self, record: Record, manifest: Object) -> View:
        return View(
            key=record.key,
            uid=record.uid,
            generation=record.generation,
            deleting=record.deleting,
            spec=manifest["spec"],
            status=manifest["status"],
            children=self._store.children(record.uid),
            memory=self._store.memory(record.uid),
            now=self._cluster.now(),
            spec_hash=_hash_of_edited(record, manifest),
            admissions=self._store.admissions,
            look_again_s=max(_LOOK_AGAIN_S, self._store.phases["Pending"] / _LOOKS_PER_S),
            version=record.version,
        )

    async def _decide(self, view: View, manifest: Object) -> tuple[View, Decision, Plan | None]:
        """Decide, and look closer as often as the decision asks for it."""
        view, decision = self._decide_once(view, manifest)
        for _ in range(_LOOKS_PER_PASS):
            if decision.look is not None:
                await self._look(view, *decision.look)
            elif decision.confirm_missing:
                view = await self._confirm(view)
            else:
                break
            view, decision = self._decide_once(replace(view, now=self._cluster.now()), manifest)
        if decision.create is None:
            return view, decision, None
        try:
            job = validate_manifest(manifest)
            problems = unsupported(job)
        except InvalidSpec as error:
            job, problems = None, error.problems
        if problems or job is None:
            view, decision = self._decide_once(replace(view, problems=tuple(problems)), manifest)
            return view, decision, None
        return view, decision, self._plan(view, job, decision.create)

    def _decide_once(self, view: View, manifest: Object) -> tuple[View, Decision]:
        """Decide; a spec that got past the schema, such as a text where an object must be, counts as an empty one."""
        try:
            return view, decide(view, self._settings)
        except (AttributeError, TypeError, ValueError):
            view = replace(view, spec={}, problems=_problems(manifest))
            if not view.problems:
                raise
            return view, decide(view, self._settings)

    def _plan(self, view: View, job: FineTuneJob, number: int) -> Plan:
        limit = ending.micro_batch_limit(view.status)
        return plan(job, Attempt(number, limit, suspended=bool(view.queue)), self._settings)

    async def _look(self, view: View, job: JobFacts, purpose: Purpose) -> None:
        selector = f"{JOB_NAME_LABEL}={job.name}"
        listed = await self._cluster.get(paths.core("pods", job.namespace), labelSelector=selector)
        pods = tuple(pod_facts(each) for each in listed["items"])
        self._store.see_pods(view.uid, job, pods, purpose, self._cluster.now())
        view.memory.refusal = "" if pods or purpose != "pending" else await self._refusal_of_pods(job)

    async def _refusal_of_pods(self, job: JobFacts) -> str:
        """Return why the API server refuses a Job's pods; only the Job's events tell it."""
        selector = f"involvedObject.uid={job.uid},reason=FailedCreate"
        try:
            listed = await self._cluster.get(paths.core("events", job.namespace), fieldSelector=selector)
        except errors.Refused:
            return ""
        return str(listed["items"][-1]["message"]) if listed["items"] else ""

    async def _confirm(self, view: View) -> View:
        """Ask for the attempt's Job: it may be there, and its event on the way."""
        attempt = max(1, view.status.get("attempt", 1))
        try:
            await self._children.adopt(view, job_name(view.key.name, view.uid, attempt))
        except errors.NotFound:
            return replace(view, confirmed_missing=True)
        return replace(view, children=self._store.children(view.uid))

    async def _apply(self, view: View, decision: Decision, planned: Plan | None) -> None:
        if planned is not None:
            await self._create(view, planned)
        if decision.suspend is not None:
            job, suspended = decision.suspend
            await self._children.patch(job, {"spec": {"suspend": suspended}})
            view.memory.looked.clear()
            # The answer is in the store already, so its event brings no pass.
            self._queue.add(view.key)
        if decision.relabel is not None:
            job, labels = decision.relabel
            await self._children.patch(job, {"metadata": {"labels": labels}})
            decision.events.append(("Warning", "Drift", f"labels of Job {job.name} were edited; restored"))
        await self._status.write(view, decision)
        for job in decision.delete:
            await self._children.delete(job)
        if decision.delete_self:
            await self._cluster.delete(paths.finetunejobs(*view.key), view.uid)
        for kind, reason, message in decision.events:
            await self._events.tell(view.key, view.uid, kind, reason, message)
        if decision.wake_at is not None:
            self._queue.add_later(view.key, (decision.wake_at - self._cluster.now()).total_seconds())

    async def _create(self, view: View, planned: Plan) -> None:
        """Post an attempt's children; what a quota refuses is told in the status and posted again later."""
        try:
            await self._children.create(view, planned)
        except errors.NamespaceTerminating:
            raise
        except (errors.Refused, errors.OwnershipConflict) as error:
            if isinstance(error, errors.Refused) and error.reason == "Invalid":
                await self._refuse(view, error)
            else:
                self._children.block(view, error)
            return
        except errors.ClusterError as error:
            # A server that answers and yet makes no Job, as with a webhook that is down, is told; an outage cannot be.
            if error.code and self._queue.failures(view.key) >= _TOLD_AFTER:
                await self._tell_unmade(view, error)
            raise
        view.memory.blocked = None
        # That the controller took the Job up brings no pass: pods that do not start are found by time.
        self._queue.add_later(view.key, self._settings.pending_look_s)

    async def _tell_unmade(self, view: View, error: errors.ClusterError) -> None:
        decision = Decision(Draft(view.status, view.generation, view.now))
        tell_blocked(decision.draft, Blocked("PostFailed", str(error), 0, view.now))
        await self._status.write(view, decision)

    async def _refuse(self, view: View, error: errors.Refused) -> None:
        """Fail a job whose children the API server calls invalid: waiting does not mend an affinity."""
        problem = Problem("spec", f"the API server refuses what it asks for: {error}", "", "Correct the manifest.")
        await self._status.write(view, decide(replace(view, problems=(problem,)), self._settings))


def _problems(manifest: Object) -> tuple[Problem, ...]:
    try:
        validate_manifest(manifest)
    except InvalidSpec as error:
        return error.problems
    return ()


def _hash_of_edited(record: Record, manifest: Object) -> str:
    """Return the hash of a spec whose generation no status tells of yet; empty when there is nothing to compare."""
    if record.generation == (manifest["status"].get("observedGeneration") or 1):
        return ""
    try:
        return spec_hash(validate_manifest(manifest))
    except InvalidSpec:
        # The next attempt tells it, with every problem.
        return ""
