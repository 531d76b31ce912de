"""One acting operator among several: a Lease, held by renewing it.

Correctness never depends on it: two that act at once use the same names and get conflicts. The holder stops writing
before others may take over, by its own monotonic clock.
"""

import asyncio
import logging
import time
from datetime import UTC, datetime

from finetune_operator import errors
from finetune_operator.cluster import Cluster, Object, resource
from finetune_operator.observe import parse_time

logger = logging.getLogger(__name__)

DURATION_S = 15.0
RENEW_S = 4.0
_MARGIN_S = 5.0
_ROOT = "/apis/coordination.k8s.io/v1"


class Lease:
    """The right to act."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, identity: str) -> None:
        """Remember the Lease's place and who we are."""
        self._cluster = cluster
        self._path = resource(_ROOT, "leases", namespace)
        self._name = name
        self._identity = identity
        self._until = float("-inf")
        self._seen: tuple[str, float] = ("", 0.0)
        self.acquired: asyncio.Event = asyncio.Event()

    def held(self) -> bool:
        """Tell whether we may act now."""
        return time.monotonic() < self._until

    async def run(self) -> None:
        """Acquire and renew until cancelled."""
        while True:
            try:
                await self._try()
            except errors.ClusterError as error:
                logger.info("lease: %s", error)
            await asyncio.sleep(RENEW_S if self.held() else RENEW_S / 4)

    async def release(self) -> None:
        """Give the Lease up, so that a standby need not wait for its end."""
        if not self.held():
            return
        try:
            found = await self._cluster.get(f"{self._path}/{self._name}")
            if found["spec"].get("holderIdentity") == self._identity:
                found["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._cluster.replace(f"{self._path}/{self._name}", found)
        except errors.ClusterError as error:
            logger.info("lease was not released: %s", error)
        self._until = float("-inf")

    async def _try(self) -> None:
        asked_at = time.monotonic()
        try:
            found = await self._cluster.get(f"{self._path}/{self._name}")
        except errors.NotFound:
            body: Object = {"metadata": {"name": self._name}, "spec": self._spec(0)}
            await self._cluster.create(self._path, body)
            self._hold(asked_at)
            return
        if not self._free(found):
            return
        changes = int(found["spec"].get("leaseTransitions") or 0)
        found["spec"] = self._spec(changes + (found["spec"].get("holderIdentity") != self._identity))
        await self._cluster.replace(f"{self._path}/{self._name}", found)
        self._hold(asked_at)

    def _free(self, found: Object) -> bool:
        """Tell whether it is ours, or was not renewed for its duration by our own clock since we first saw it so."""
        spec = found["spec"]
        if spec.get("holderIdentity") in {self._identity, "", None}:
            return True
        version = found["metadata"]["resourceVersion"]
        if self._seen[0] != version:
            self._seen = (version, time.monotonic())
        renewed = parse_time(spec.get("renewTime"))
        duration_s = float(spec.get("leaseDurationSeconds") or DURATION_S)
        # At our first sight of it the API server's time shows whether it is long over.
        stale = renewed is not None and (self._cluster.now() - renewed).total_seconds() > duration_s + _MARGIN_S
        return stale or time.monotonic() - self._seen[1] > duration_s

    def _spec(self, changes: int) -> Object:
        now = self._cluster.now().astimezone(UTC)
        at = datetime.strftime(now, "%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(DURATION_S),
            "acquireTime": at,
            "renewTime": at,
            "leaseTransitions": changes,
        }

    def _hold(self, asked_at: float) -> None:
        self._until = asked_at + DURATION_S - _MARGIN_S
        self.acquired.set()
