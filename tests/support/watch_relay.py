"""One open watch that passes through a FaultProxy, line by line.

A reader takes lines as the API server sends them; a writer hands each on when the faults let it, so that a heal
releases what was held, in order.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp
from aiohttp import web

from support.faults import Faults, Request


class WatchRelay:
    """One watch; lives in the proxy's event loop."""

    def __init__(self, request: Request, faults: Callable[[], Faults]) -> None:
        self.request = request
        self._faults = faults
        self._held: deque[tuple[float, bytes | None]] = deque()
        """(arrival, line); None is the end of the stream."""
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Look at the faults again."""
        self._changed.set()

    def inject(self, event: dict[str, Any], *, end: bool) -> None:
        """Send an event now, before what is held; `end` closes the watch after it, as the API server does."""
        lines: list[tuple[float, bytes | None]] = [(float("-inf"), json.dumps(event).encode() + b"\n")]
        if end:
            lines.append((float("-inf"), None))
        self._held.extendleft(reversed(lines))
        self.wake()

    def end(self) -> None:
        """Close the watch now, as a timeout of the API server does; what is held is lost."""
        self._held.clear()
        self._held.append((float("-inf"), None))
        self.wake()

    async def run(self, upstream: aiohttp.ClientResponse, client: web.StreamResponse) -> None:
        """Pass lines on until either side ends.

        Raises:
            aiohttp.ClientError: The API server broke off in the middle.
        """
        reader = asyncio.create_task(self._read(upstream))
        try:
            await self._write(client)
            if reader.done():
                reader.result()
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, upstream: aiohttp.ClientResponse) -> None:
        rest = b""
        try:
            async for chunk in upstream.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                now = time.monotonic()
                self._held.extend((now, line + b"\n") for line in lines if line)
                self.wake()
        finally:
            self._held.append((time.monotonic(), None))
            self.wake()

    async def _write(self, client: web.StreamResponse) -> None:
        while True:
            self._changed.clear()
            wait_s = self._wait_s()
            if wait_s is None or wait_s > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), wait_s)
                continue
            _, line = self._held.popleft()
            if line is None:
                return
            for _ in range(self._copies(line)):
                await client.write(line)

    def _wait_s(self) -> float | None:
        """Return how long the next line is held, None for until something changes."""
        faults = self._faults()
        if not self._held:
            return None
        arrived, _ = self._held[0]
        if arrived == float("-inf"):
            return 0.0
        if faults.stalls(self.request):
            return None
        return arrived + faults.watch_delay_s(self.request) - time.monotonic()

    def _copies(self, line: bytes) -> int:
        faults = self._faults()
        return faults.copies(json.loads(line)) if faults.reads_events else 1
