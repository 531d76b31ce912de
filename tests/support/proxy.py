"""A reverse proxy between an operator and a real API server that can fail in every way that a network or server can.

Plain HTTP on loopback, in a thread and event loop of its own; every fault is set and lifted while it runs, from any
thread. Nothing is retried or cached: what the client sees is the API server's answer, or the fault.
"""

import asyncio
import io
import json
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from support.faults import Answer, EventMatch, Faults, Match, Request, WriteHook, everything, status_object
from support.watch_relay import WatchRelay

_HOP_BY_HOP = {"connection", "host", "keep-alive", "transfer-encoding", "content-length", "te", "upgrade"}


class FaultProxy:
    """Passes requests on to one API server, from its creation until `stop`; a context manager."""

    def __init__(self, upstream_url: str, ca_file: str) -> None:
        self.requests: list[Request] = []
        """Every request in order of arrival, those that a fault answered included."""
        self.url = ""
        self._upstream = upstream_url
        self._ssl = ssl.create_default_context(cafile=ca_file)
        self._faults = Faults()
        self._relays: set[WatchRelay] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        self._do(self._open)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close every connection and end the thread."""
        self._do(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def writes(self) -> list[Request]:
        """The requests that change something, in order."""
        return [each for each in self.requests if each.is_write]

    @property
    def open_watches(self) -> list[Request]:
        return [each.request for each in list(self._relays)]

    def down(self) -> None:
        """Close every connection and refuse new ones, until `heal`."""
        self._do(self._shut)

    def heal(self) -> None:
        """Lift every fault; what watches held is delivered."""
        self._do(self._heal)

    def fail(
        self,
        code: int,
        match: Match = everything,
        times: int | None = None,
        *,
        headers: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
    ) -> None:
        """Answer requests with an error that the API server never hears of.

        Args:
            code: HTTP status.
            match: Which requests.
            times: How many of them; all until `heal` when None.
            headers: Such as Retry-After.
            body: The Status object; one that fits the code when None.
        """
        answer = Answer(code, match, times, headers or {}, body or status_object(code))
        self._set(lambda faults: faults.answers.append(answer))

    def delay(self, seconds: float, match: Match = everything) -> None:
        """Hold requests before they are sent on."""
        self._set(lambda faults: faults.delays.append((seconds, match)))

    def stall_watches(self, match: Match = everything, *, new_ones: bool = False) -> None:
        """Keep watches open and pass nothing, as a lost path does; those opened later pass unless `new_ones`."""

        def change(faults: Faults) -> None:
            faults.stalled = match
            faults.stalled_before = float("inf") if new_ones else self._now()

        self._set(change)

    def delay_watches(self, seconds: float, match: Match = everything) -> None:
        """Deliver everything on watches late."""
        self._set(lambda faults: faults.watch_delays.append((seconds, match)))

    def drop_watch_events(self, match: EventMatch, times: int | None = None) -> None:
        """Lose events (`{"type": ..., "object": ...}`) that match."""

        def change(faults: Faults) -> None:
            faults.drop, faults.drops_left = match, times

        self._set(change)

    def duplicate_watch_events(self) -> None:
        """Deliver every event twice."""

        def change(faults: Faults) -> None:
            faults.duplicate = True

        self._set(change)

    def watch_error(self, code: int, match: Match = everything, *, end: bool = True) -> int:
        """Send an ERROR event into the open watches and end them; returns how many there were."""
        event = {"type": "ERROR", "object": status_object(code)}
        return self._each_watch(match, lambda relay: relay.inject(event, end=end))

    def inject_watch_event(self, event: dict[str, Any], match: Match = everything) -> int:
        """Send an event into the open watches, as a replay does; returns how many there were."""
        return self._each_watch(match, lambda relay: relay.inject(event, end=False))

    def end_watches(self, match: Match = everything) -> int:
        """End the open watches without an error; returns how many there were."""
        return self._each_watch(match, WatchRelay.end)

    def before_write(
        self, k: int, callback: Callable[[], Any], match: Match = everything, *, lose: bool = True
    ) -> None:
        """Call something at the k-th write from now, before it is sent on; `lose` cuts the connection instead."""
        self._set(lambda faults: faults.hooks.append(WriteHook(k, callback, match, before=True, lose=lose)))

    def after_write(
        self, k: int, callback: Callable[[], Any], match: Match = everything, *, lose: bool = False
    ) -> None:
        """Call something once the API server did the k-th write from now; `lose` keeps the answer from the client."""
        self._set(lambda faults: faults.hooks.append(WriteHook(k, callback, match, before=False, lose=lose)))

    # From here on everything runs in the proxy's event loop.

    async def _open(self) -> None:
        self._healed = asyncio.Event()
        connector = aiohttp.TCPConnector(limit=0, ssl=self._ssl)
        timeout = aiohttp.ClientTimeout(total=None)
        jar = aiohttp.DummyCookieJar()
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, cookie_jar=jar, auto_decompress=False
        )
        self._server = web.Server(self._handle, access_log=None, handler_cancellation=True)
        self._listener = await self._loop.create_server(self._server, "127.0.0.1", 0)
        self._port = self._listener.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def _close(self) -> None:
        await self._shut()
        await self._server.shutdown(1.0)
        # It cancels handlers that last and does not wait for their end; a busy machine takes its time for it.
        if handlers := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(handlers, timeout=5.0)
        await self._session.close()
        # TLS connections need a turn of the loop to be closed.
        await asyncio.sleep(0.01)

    async def _shut(self) -> None:
        self._listener.close()
        for connection in list(self._server.connections):
            if connection.transport is not None:
                connection.transport.abort()

    async def _heal(self) -> None:
        self._faults = Faults()
        self._healed.set()
        self._healed = asyncio.Event()
        for relay in self._relays:
            relay.wake()
        if not self._listener.is_serving():
            self._listener = await self._loop.create_server(self._server, "127.0.0.1", self._port)

    async def _handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        body = await incoming.content.read()
        agent = incoming.headers.get("User-Agent", "")
        params = dict(incoming.query)
        request = Request(incoming.method, incoming.path, incoming.query_string, agent, body=body, params=params)
        self.requests.append(request)
        faults = self._faults
        if delay_s := faults.delay_s(request):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._healed.wait(), delay_s)
        answer = faults.answer_for(request)
        if answer is not None:
            request.status = answer.code
            return web.json_response(answer.body, status=answer.code, headers=answer.headers)
        if await self._hook(request, before=True):
            return _cut(incoming)
        try:
            return await self._forward(incoming, request)
        except (aiohttp.ClientError, ConnectionError):
            return _cut(incoming)

    async def _forward(self, incoming: web.BaseRequest, request: Request) -> web.StreamResponse:
        headers = CIMultiDict((k, v) for k, v in incoming.headers.items() if k.lower() not in _HOP_BY_HOP)
        if request.is_watch:
            headers.popall("Accept-Encoding", None)
        # raw_path keeps the client's quoting: a name with an escaped character must arrive as it was sent.
        url = URL(f"{self._upstream}{incoming.raw_path}", encoded=True)
        sent = self._session.request(
            request.method,
            url,
            headers=headers,
            data=io.BytesIO(request.body) if request.body else None,
            allow_redirects=False,
            skip_auto_headers=("Accept-Encoding", "User-Agent", "Content-Type"),
        )
        async with sent as upstream:
            kept = [(k, v) for k, v in upstream.headers.items() if k.lower() not in _HOP_BY_HOP]
            if request.is_watch and upstream.status == web.HTTPOk.status_code:
                return await self._relay(incoming, request, upstream, CIMultiDict(kept))
            data = await upstream.read()
            if await self._hook(request, before=False):
                return _cut(incoming)
            request.status = upstream.status
            return web.Response(status=upstream.status, headers=CIMultiDict(kept), body=data)

    async def _relay(
        self, incoming: web.BaseRequest, request: Request, upstream: aiohttp.ClientResponse, headers: CIMultiDict[str]
    ) -> web.StreamResponse:
        request.status = upstream.status
        client = web.StreamResponse(status=upstream.status, headers=headers)
        await client.prepare(incoming)
        relay = WatchRelay(request, lambda: self._faults)
        self._relays.add(relay)
        try:
            await relay.run(upstream, client)
        finally:
            self._relays.discard(relay)
        return client

    async def _hook(self, request: Request, *, before: bool) -> bool:
        """Run what is due at this write; tell whether the write or its answer is lost."""
        hook = self._faults.hook_for(request, before=before)
        if hook is None:
            return False
        # In a thread: the callback may kill a process and wait for it, or set a fault here.
        await asyncio.to_thread(hook.callback)
        return hook.lose

    def _each_watch(self, match: Match, act: Callable[[WatchRelay], None]) -> int:
        async def change() -> int:
            chosen = [each for each in self._relays if match(each.request)]
            for each in chosen:
                act(each)
            return len(chosen)

        return self._do(change)

    def _set(self, change: Callable[[Faults], None]) -> None:
        async def apply() -> None:
            change(self._faults)
            for relay in self._relays:
                relay.wake()

        self._do(apply)

    def _now(self) -> float:
        return self._loop.time()

    def _do(self, work: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(30)


def _cut(incoming: web.BaseRequest) -> web.StreamResponse:
    """Close the client's connection without an answer."""
    if incoming.transport is not None:
        incoming.transport.abort()
    return web.Response(status=502, text=json.dumps(status_object(502)))
