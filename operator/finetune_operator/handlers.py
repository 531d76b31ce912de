"""kopf's part: it multiplexes the watches of FineTuneJobs and hands every event on. It decides and writes nothing.

kopf runs in a thread and event loop of its own, since a watch error other than 410 ends it and it then cancels every
task of its loop. The supervisor starts it again; servers, workers and the lease never notice.
"""

import asyncio
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, cast

import kopf

from finetune_api.names import GROUP, MANAGER, PLURAL, VERSION
from finetune_operator.settings import Settings

logger = logging.getLogger(__name__)

EventSink = Callable[[str | None, Mapping[str, Any]], None]
_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 5.0
_STEADY_S = 30.0
_CHUNK = 100
_JOIN_S = 3.0


class _Backoffs:
    """Waits between requests of kopf, without an end: an outage of any length must not end the watch."""

    def __iter__(self) -> Iterator[float]:
        rng = random.Random()
        return (min(5.0, 0.1 * 2 ** min(tries, 10)) * rng.uniform(0.5, 1.0) for tries in itertools.count())


class _TooOld(logging.Filter):
    """Hears that a watch of kopf was too old (410 Gone) and that it lists anew: kopf tells it in its log alone."""

    logger = logging.getLogger("kopf._cogs.clients.watching")

    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__()
        self._tell = tell

    def filter(self, record: logging.LogRecord) -> bool:
        if record.getMessage().startswith("Restarting the watch-stream"):
            self._tell()
        return record.levelno >= logging.WARNING


class _NoDiffBase(kopf.DiffBaseStorage):
    """Keeps no last state: without it kopf copies every object in depth for each event, most of an event's CPU."""

    def build(self, *, body: kopf.Body, extra_fields: object = None) -> kopf.BodyEssence:
        del body, extra_fields
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> None:
        del body

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        del body, patch, essence


class _NoProgress(kopf.ProgressStorage):
    """Keeps no progress of handlers: there is none for events."""

    def fetch(self, **_: object) -> None:
        return

    def store(self, **_: object) -> None:
        return

    def purge(self, **_: object) -> None:
        return

    def touch(self, **_: object) -> None:
        return

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


class Frame:
    """kopf under a supervisor."""

    def __init__(
        self,
        settings: Settings,
        login: Callable[[], kopf.ConnectionInfo],
        is_served: Callable[[], bool],
        sink: EventSink,
        on_restart: Callable[[str], None],
    ) -> None:
        """Remember the parts.

        Args:
            settings: Which namespaces to watch.
            login: Returns server and credentials; called in kopf's thread.
            is_served: Tells whether the API server serves FineTuneJobs; blocks, called in kopf's thread.
            sink: Told of every event (None for an item of a list); called in kopf's thread.
            on_restart: Told why kopf ended by itself; empty when it lists anew since its watch was too old.
        """
        self._settings = settings
        self._login = login
        self._is_served = is_served
        self._sink = sink
        self._on_restart = on_restart
        self._stop = threading.Event()
        self._ask_to_stop: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._supervise, name="kopf", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        _TooOld.logger.setLevel(logging.DEBUG)
        _TooOld.logger.addFilter(_TooOld(lambda: self._on_restart("")))
        self._thread.start()

    def stop(self) -> None:
        """Ask kopf to end and wait a moment for it; a hanging watch does not hold the process."""
        self._stop.set()
        with suppress(RuntimeError):  # kopf's loop is closed already
            self._ask_to_stop()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def _supervise(self) -> None:
        wait_s = _FIRST_WAIT_S
        while not self._stop.is_set():
            started, why = time.monotonic(), "without an error"
            try:
                # kopf never sees a resource that is defined after its start.
                while not self._is_served():
                    if self._stop.wait(1.0):
                        return
                started = time.monotonic()
                asyncio.run(self._run())
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever ended it, it starts again
                why = str(error) or type(error).__name__
                logger.warning("kopf ended: %s", why)
            if self._stop.is_set():
                return
            self._on_restart(why)
            wait_s = _FIRST_WAIT_S if time.monotonic() - started > _STEADY_S else min(_LONGEST_WAIT_S, 2 * wait_s)
            self._stop.wait(wait_s)

    async def _run(self) -> None:
        # No stop_flag: a kopf that failed waits 5 s for what waits for it, and for ever for a threading.Event's thread.
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None, "internal: not in a task"
        self._ask_to_stop = lambda: loop.call_soon_threadsafe(task.cancel)
        if self._stop.is_set():
            return
        await kopf.operator(
            registry=self._registry(),
            settings=_kopf_settings(self._settings.watch_idle_s),
            # kopf would ask for the user's name, and an arbitrary user of a pod has none.
            identity=cast("Any", MANAGER),
            standalone=True,
            clusterwide=not self._settings.namespaces,
            namespaces=self._settings.namespaces,
        )

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        def _login(**_: Any) -> kopf.ConnectionInfo:
            return self._login()

        @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
        async def _event(event: Mapping[str, Any], **_: Any) -> None:
            self._sink(event["type"], event["object"])

        return registry


def _kopf_settings(watch_idle_s: float) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.networking.error_backoffs = _Backoffs()
    settings.networking.request_timeout = 30.0
    settings.networking.connect_timeout = 10.0
    settings.queueing.idle_timeout = 0.01
    settings.watching.chunk_size = _CHUNK
    settings.watching.inactivity_timeout = watch_idle_s
    settings.watching.connect_timeout = 10.0
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    # Otherwise a stop arms a timer that SIGKILLs the whole process.
    settings.process.ultimate_exiting_timeout = None
    return settings
