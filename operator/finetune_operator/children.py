"""The children of jobs as the API server has them: created once, adopted when ours, never taken from anybody else."""

import random
from datetime import timedelta
from typing import Any

from finetune_operator import cluster as paths
from finetune_operator import errors
from finetune_operator.cluster import Cluster, Object
from finetune_operator.observe import JobFacts, job_facts
from finetune_operator.plan import Plan
from finetune_operator.queue import DirtyQueue, Priority
from finetune_operator.settings import Settings
from finetune_operator.store import Blocked, Store
from finetune_operator.view import View

_FIRST_REFUSED_S = 2.0


class Children:
    """Writes Jobs, Services and claims."""

    def __init__(self, cluster: Cluster, store: Store, queue: DirtyQueue, settings: Settings) -> None:
        """Remember the parts."""
        self._cluster = cluster
        self._store = store
        self._queue = queue
        self._settings = settings
        self._rng = random.Random()

    async def create(self, view: View, planned: Plan) -> None:
        """Post an attempt's children; those that exist and are ours are taken as they are.

        Refused tells of a quota, a limit or admission, OwnershipConflict of a name that is taken.
        """
        namespace = view.key.namespace
        if planned.claim is not None:
            await self.create_once(view, paths.core("persistentvolumeclaims", namespace), planned.claim)
        if planned.service is not None:
            await self.create_once(view, paths.core("services", namespace), planned.service)
        try:
            made = await self._cluster.create(paths.jobs(namespace), planned.job)
            self._store.put_job(job_facts(made))
        except errors.AlreadyExists:
            await self.adopt(view, planned.job["metadata"]["name"])
            # One whose labels were removed is not in our watch: it needs a look now.
            self._queue.add(view.key)

    async def create_once(self, view: View, path: str, body: Object) -> None:
        """Create an object that all attempts share; one that is there must be ours."""
        try:
            await self._cluster.create(path, body)
        except errors.AlreadyExists:
            found = await self._cluster.get(f"{path}/{body['metadata']['name']}")
            _check_owner(view, found)

    async def adopt(self, view: View, name: str) -> None:
        """Take a Job that exists; it must be ours."""
        found = await self._cluster.get(paths.jobs(view.key.namespace, name))
        _check_owner(view, found)
        self._store.put_job(job_facts(found))

    def block(self, view: View, error: errors.OperatorError) -> None:
        """Note a refusal; the next pass tells it, and when it is over another one posts again."""
        memory = view.memory
        tries = memory.blocked.tries + 1 if memory.blocked else 1
        wait_s = min(self._settings.refused_limit_s, _FIRST_REFUSED_S * 2 ** min(tries, 10)) * self._rng.uniform(0.7, 1)
        reason = "NameConflict" if isinstance(error, errors.OwnershipConflict) else _refusal(error)
        memory.blocked = Blocked(reason, str(error), tries, self._cluster.now() + timedelta(seconds=wait_s))
        self._queue.add(view.key, Priority.ROUTINE)

    async def patch(self, job: JobFacts, body: Object) -> None:
        """Merge a patch into a Job."""
        made = await self._cluster.patch(paths.jobs(job.namespace, job.name), body)
        self._store.put_job(job_facts(made))

    async def delete(self, job: JobFacts) -> None:
        """Delete a Job with its pods; one that is gone or was made anew is left alone."""
        try:
            await self._cluster.delete(paths.jobs(job.namespace, job.name), job.uid)
        except (errors.NotFound, errors.Conflict):
            return


def _check_owner(view: View, found: Object) -> None:
    """Raise OwnershipConflict for an object of ours in name only."""
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
