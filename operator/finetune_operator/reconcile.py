"""One pass for one job: observe, decide, plan, apply, one status patch. Every pass may be the last: a crash after any
write leaves a state from which the next pass goes on.

New children are posted before the status, deletions come after it.
"""

import asyncio
import logging
import random
import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from finetune_api.names import API_VERSION, JOB_NAME_LABEL, KIND, job_name
from finetune_api.spec import FineTuneJob
from finetune_api.validation import InvalidSpec, Problem, validate_manifest
from finetune_operator import cluster as paths
from finetune_operator import ending, errors
from finetune_operator.cluster import Cluster, Object
from finetune_operator.events import EventWriter
from finetune_operator.lifecycle import decide
from finetune_operator.metrics import Metrics
from finetune_operator.observe import JobFacts, job_facts, pod_facts
from finetune_operator.plan import Attempt, Plan, plan, spec_hash, unsupported
from finetune_operator.queue import DirtyQueue, Priority
from finetune_operator.settings import Settings
from finetune_operator.store import Blocked, Key, Purpose, Record, Store, record_of
from finetune_operator.view import Decision, View

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

_FIRST_REFUSED_S = 2.0
_LOOKS_PER_PASS = 2
_NOT_YET_S = 0.5


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
        self._rng = random.Random()
        self._events = EventWriter(cluster)
        self._budget_at = time.monotonic()
        self._budget = settings.status_writes_per_s
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
            self._metrics.queue_depth.set(len(self._queue))

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
            self._metrics.forget(key.namespace, key.name)
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
        )

    async def _decide(self, view: View, manifest: Object) -> tuple[View, Decision, Plan | None]:
        """Decide, and look closer as often as the decision asks for it."""
        decision = decide(view, self._settings)
        for _ in range(_LOOKS_PER_PASS):
            if decision.look is not None:
                await self._look(view, *decision.look)
            elif decision.confirm_missing:
                view = await self._confirm(view)
            else:
                break
            decision = decide(replace(view, now=self._cluster.now()), self._settings)
        if decision.create is None:
            return view, decision, None
        try:
            job = validate_manifest(manifest)
            problems = unsupported(job)
        except InvalidSpec as error:
            job, problems = None, error.problems
        if problems or job is None:
            view = replace(view, problems=tuple(problems))
            return view, decide(view, self._settings), None
        return view, decision, self._plan(view, job, decision.create)

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
            await self._adopt(view, job_name(view.key.name, view.uid, attempt))
        except errors.NotFound:
            return replace(view, confirmed_missing=True)
        return replace(view, children=self._store.children(view.uid))

    async def _apply(self, view: View, decision: Decision, planned: Plan | None) -> None:
        if planned is not None:
            await self._create(view, planned)
        if decision.suspend is not None:
            job, suspended = decision.suspend
            await self._patch_job(job, {"spec": {"suspend": suspended}})
            view.memory.looked.clear()
        if decision.relabel is not None:
            job, labels = decision.relabel
            await self._patch_job(job, {"metadata": {"labels": labels}})
            decision.events.append(("Warning", "Drift", f"labels of Job {job.name} were edited; restored"))
        await self._write_status(view, decision)
        for job in decision.delete:
            await self._delete(job)
        if decision.delete_self:
            await self._cluster.delete(paths.finetunejobs(*view.key), view.uid)
        for kind, reason, message in decision.events:
            await self._events.tell(view.key, view.uid, kind, reason, message)
        if decision.wake_at is not None:
            self._queue.add_later(view.key, (decision.wake_at - self._cluster.now()).total_seconds())

    async def _create(self, view: View, planned: Plan) -> None:
        """Post an attempt's children; what a quota refuses is told in the status and posted again later."""
        namespace = view.key.namespace
        memory = view.memory
        try:
            if planned.claim is not None:
                await self._create_once(view, paths.core("persistentvolumeclaims", namespace), planned.claim)
            if planned.service is not None:
                await self._create_once(view, paths.core("services", namespace), planned.service)
            try:
                made = await self._cluster.create(paths.jobs(namespace), planned.job)
                self._store.put_job(job_facts(made))
            except errors.AlreadyExists:
                await self._adopt(view, planned.job["metadata"]["name"])
                # One whose labels were removed is not in our watch: it needs a look now.
                self._queue.add(view.key)
        except errors.NamespaceTerminating:
            raise
        except (errors.Refused, errors.OwnershipConflict) as error:
            if isinstance(error, errors.Refused) and error.reason == "Invalid":
                await self._refuse(view, error)
            else:
                self._block(view, error)
            return
        memory.blocked = None

    async def _create_once(self, view: View, path: str, body: Object) -> None:
        try:
            await self._cluster.create(path, body)
        except errors.AlreadyExists:
            found = await self._cluster.get(f"{path}/{body['metadata']['name']}")
            _check_owner(view, found)

    async def _adopt(self, view: View, name: str) -> None:
        found = await self._cluster.get(paths.jobs(view.key.namespace, name))
        _check_owner(view, found)
        self._store.put_job(job_facts(found))

    async def _refuse(self, view: View, error: errors.Refused) -> None:
        """Fail a job whose children the API server calls invalid: waiting does not mend an affinity."""
        problem = Problem("spec", f"the API server refuses what it asks for: {error}", "", "Correct the manifest.")
        await self._write_status(view, decide(replace(view, problems=(problem,)), self._settings))

    def _block(self, view: View, error: errors.OperatorError) -> None:
        """Note a refusal; the next pass tells it, and when it is over another one posts again."""
        memory = view.memory
        tries = memory.blocked.tries + 1 if memory.blocked else 1
        wait_s = min(self._settings.refused_limit_s, _FIRST_REFUSED_S * 2 ** min(tries, 10)) * self._rng.uniform(0.7, 1)
        reason = "NameConflict" if isinstance(error, errors.OwnershipConflict) else _refusal(error)
        memory.blocked = Blocked(reason, str(error), tries, self._cluster.now() + timedelta(seconds=wait_s))
        self._queue.add(view.key, Priority.ROUTINE)

    async def _patch_job(self, job: JobFacts, body: Object) -> None:
        made = await self._cluster.patch(paths.jobs(job.namespace, job.name), body)
        self._store.put_job(job_facts(made))

    async def _delete(self, job: JobFacts) -> None:
        try:
            await self._cluster.delete(paths.jobs(job.namespace, job.name), job.uid)
        except (errors.NotFound, errors.Conflict):
            return

    async def _write_status(self, view: View, decision: Decision) -> None:
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
        record = self._store.records.get(view.key)
        if record is None or record.uid != view.uid:
            return
        await self._patch_status(record, changes)
        memory.written_at = time.monotonic()
        if "failure" in changes and draft.value.get("failure"):
            self._metrics.failures.labels(draft.value["failure"]["reason"]).inc()

    async def _patch_status(self, record: Record, changes: Object) -> None:
        """Write the status onto the very version that was looked at; a conflict is decided anew."""
        body: Object = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"resourceVersion": str(record.version), "uid": record.uid},
            "status": changes,
        }
        path = paths.finetunejobs(record.key.namespace, record.key.name, "status")
        try:
            self._store.put(record_of(await self._cluster.patch(path, body)))
        except errors.NotFound:
            self._store.remove(record.key, record.uid, record.version)
        except errors.Conflict:
            await self._read_again(record)
            raise

    async def _read_again(self, record: Record) -> None:
        key = record.key
        try:
            self._store.put(record_of(await self._cluster.get(paths.finetunejobs(key.namespace, key.name))))
        except errors.NotFound:
            self._store.remove(key, record.uid, record.version)

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


def _hash_of_edited(record: Record, manifest: Object) -> str:
    """Return the hash of a spec whose generation no status tells of yet; empty when there is nothing to compare."""
    if record.generation == (manifest["status"].get("observedGeneration") or 1):
        return ""
    try:
        return spec_hash(validate_manifest(manifest))
    except InvalidSpec:
        # The next attempt tells it, with every problem.
        return ""


def _check_owner(view: View, found: Object) -> None:
    """Refuse an object of ours in name only.

    Raises:
        OwnershipConflict: Somebody else controls it, or nobody does.
    """
    owners = found["metadata"].get("ownerReferences") or ()
    controller: dict[str, Any] = next((each for each in owners if each.get("controller")), {})
    if controller.get("uid") == view.uid:
        return
    name = f"{found.get('kind')} {view.key.namespace}/{found['metadata']['name']}"
    who = f"{controller['kind']}/{controller['name']}" if controller else "nobody"
    raise errors.OwnershipConflict(
        f"refusing to use {name}: its controller is {who}, not FineTuneJob/{view.key.name} of uid {view.uid}. "
        "Rename or delete it."
    )


def _refusal(error: Exception) -> str:
    return "QuotaExceeded" if "exceeded quota" in str(error) else "Refused"
