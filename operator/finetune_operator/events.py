"""Kubernetes events of our own, aggregated: the same words again are one event with a count, and rarely."""

import hashlib
import logging
import time
from collections import OrderedDict

from finetune_api.names import API_VERSION, KIND, MANAGER
from finetune_operator import errors
from finetune_operator.cluster import Cluster, Object, core
from finetune_operator.status import bounded, rfc3339
from finetune_operator.store import Key

logger = logging.getLogger(__name__)

_REMEMBERED = 1000
_REPEAT_AFTER_S = 300.0


class EventWriter:
    """Writes events; one that cannot be written is a line in the log, never an error."""

    def __init__(self, cluster: Cluster) -> None:
        """Start with nothing told."""
        self._cluster = cluster
        self._told: OrderedDict[str, tuple[float, int]] = OrderedDict()

    async def tell(self, key: Key, uid: str, kind: str, reason: str, message: str) -> None:
        """Tell about a job, unless the same was told in the last five minutes.

        Args:
            key: The job.
            uid: Its uid.
            kind: Normal or Warning.
            reason: One CamelCase word.
            message: For people.
        """
        name = hashlib.sha256(f"{uid}/{kind}/{reason}/{message}".encode()).hexdigest()[:16]
        last, count = self._told.get(name, (float("-inf"), 0))
        if time.monotonic() - last < _REPEAT_AFTER_S:
            return
        self._told[name] = (time.monotonic(), count + 1)
        self._told.move_to_end(name)
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        at = rfc3339(self._cluster.now())
        body: Object = {
            "metadata": {"name": f"{key.name[:200]}.{name}.{count}", "namespace": key.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": key.name,
                "namespace": key.namespace,
                "uid": uid,
            },
            "type": kind,
            "reason": reason,
            "message": bounded(message),
            "source": {"component": MANAGER},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": count + 1,
        }
        try:
            await self._cluster.create(core("events", key.namespace), body)
        except errors.ClusterError as error:
            logger.info("event %s of %s was not written: %s", reason, key, error)
