"""List and watch a collection of our own: Jobs, since kopf's event path costs four times the CPU.

Stays alive through every outage: an error ends one watch, never the loop.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from finetune_operator import errors
from finetune_operator.cluster import Cluster

logger = logging.getLogger(__name__)

_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0
_STEADY_S = 10.0
Object = dict[str, Any]


@dataclass(slots=True)
class Collection:
    """What to watch, and whom to tell."""

    paths: tuple[str, ...]
    """One for the whole cluster, or one per namespace."""
    on_list: Callable[[list[Any], int], None]
    """Told of a whole list, each object as `read` returned it, and its version."""
    on_event: Callable[[str, Object], None]
    """Told of ADDED, MODIFIED and DELETED."""
    on_restart: Callable[[], None]
    idle_s: float
    """Silence after which a watch counts as dead."""
    read: Callable[[Object], Any] = lambda body: body
    """Keeps of a listed object what is needed: ten thousand Jobs as dicts take 300 MiB."""
    selectors: dict[str, str] = field(default_factory=dict[str, str])
    on_sign: Callable[[], None] = lambda: None
    """Told of every sign of life: a list, an event, a bookmark."""


class Watcher:
    """Keeps one collection up to date."""

    def __init__(self, cluster: Cluster, collection: Collection, rng: random.Random) -> None:
        """Remember what to watch; `run` starts."""
        self._cluster = cluster
        self._collection = collection
        self._rng = rng
        self._stale: asyncio.Event = asyncio.Event()
        self.synced: asyncio.Event = asyncio.Event()

    def relist(self) -> None:
        """List anew soon, whatever the watch says."""
        self._stale.set()

    async def run(self) -> None:
        """List and watch until cancelled."""
        wait_s = _FIRST_WAIT_S
        version: str | None = None
        while True:
            started = time.monotonic()
            try:
                if version is None or self._stale.is_set():
                    self._stale.clear()
                    version = await self._list()
                    self.synced.set()
                version = await self._watch(version)
                wait_s = _FIRST_WAIT_S
            except errors.ClusterError as error:
                self._collection.on_restart()
                logger.warning("watch of %s ended: %s", self._collection.paths[0], error)
                version = None
                # A watch that lasted is no part of the outage that made the waits long.
                wait_s = _FIRST_WAIT_S if time.monotonic() - started > _STEADY_S else wait_s
                await asyncio.sleep(max(error.retry_after_s or 0.0, wait_s * self._rng.uniform(0.5, 1.0)))
                wait_s = min(_LONGEST_WAIT_S, 2 * wait_s)
            except (ValueError, KeyError, TypeError):
                # An event that cannot be read must not end the watch for good.
                self._collection.on_restart()
                logger.exception("watch of %s: unreadable; listed anew", self._collection.paths[0])
                version = None
                await asyncio.sleep(_LONGEST_WAIT_S)

    async def _list(self) -> str:
        found: list[Any] = []
        versions: list[int] = []
        for path in self._collection.paths:
            version = 0
            async for page in self._cluster.pages(path, **self._collection.selectors):
                version = int(page["metadata"]["resourceVersion"])
                found += map(self._collection.read, page["items"])
            versions.append(version)
        # The oldest: what happened to one namespace while the next was listed comes as an event.
        self._collection.on_list(found, min(versions))
        self._collection.on_sign()
        return str(min(versions))

    async def _watch(self, version: str) -> str:
        """Watch until a stream ends or a new list is wanted; return the version reached."""
        paths = self._collection.paths
        streams = [asyncio.create_task(self._stream(path, version)) for path in paths]
        stale = asyncio.create_task(self._stale.wait())
        try:
            done, _ = await asyncio.wait([*streams, stale], return_when=asyncio.FIRST_COMPLETED)
            reached = [each.result() for each in done if each is not stale]
            return str(reached[0]) if len(paths) == 1 and reached else version
        finally:
            for task in (*streams, stale):
                task.cancel()
            await asyncio.wait([*streams, stale])

    async def _stream(self, path: str, version: str) -> str:
        async with self._cluster.watch(path, version, self._collection.idle_s, **self._collection.selectors) as events:
            return await self._follow(events, version)

    async def _follow(self, events: AsyncIterator[Object], version: str) -> str:
        async for event in events:
            kind, body = event["type"], event["object"]
            if kind == "ERROR":
                raise errors.Gone(f"{body.get('code')} {body.get('message')}", int(body.get("code") or 0))
            version = body["metadata"]["resourceVersion"]
            self._collection.on_sign()
            if kind != "BOOKMARK":
                self._collection.on_event(kind, body)
        return version
