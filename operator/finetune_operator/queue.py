"""Which jobs need a look, in which order: one entry per key, one worker per key, delays and backoff per key."""

import asyncio
import heapq
import itertools
import random
from collections import deque
from enum import IntEnum

from finetune_operator.store import Key

_FIRST_RETRY_S = 0.005


class Priority(IntEnum):
    """Lower comes first: what frees machines, what was just asked for, what only informs."""

    FINISH = 0
    NEW = 1
    ROUTINE = 2


class DirtyQueue:
    """A queue of keys. Lives in one event loop."""

    def __init__(self, retry_limit_s: float, rng: random.Random) -> None:
        """Start empty.

        Args:
            retry_limit_s: Longest wait after failures in a row.
            rng: Source of the jitter.
        """
        self._limit_s = retry_limit_s
        self._rng = rng
        self._ready: tuple[deque[Key], ...] = tuple(deque() for _ in Priority)
        self._queued: dict[Key, Priority] = {}
        self._busy: set[Key] = set()
        self._again: dict[Key, Priority] = {}
        self._failures: dict[Key, int] = {}
        self._held: dict[Key, float] = {}
        self._due: dict[Key, float] = {}
        self._later: list[tuple[float, int, Key]] = []
        self._numbers = itertools.count()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return how many keys are ready; those that wait for a time are not counted."""
        return len(self._queued)

    def add(self, key: Key, priority: Priority = Priority.NEW) -> None:
        """Mark a key dirty. One that is being worked on is looked at once more afterwards."""
        if key in self._busy:
            self._again[key] = min(priority, self._again.get(key, priority))
            return
        held_s = self._held.get(key, 0.0) - asyncio.get_running_loop().time()
        if held_s > 0:
            self.add_later(key, held_s)
            return
        queued = self._queued.get(key)
        if queued is not None and queued <= priority:
            return
        self._queued[key] = priority
        self._ready[priority].append(key)
        self._wake_one()

    def add_later(self, key: Key, delay_s: float) -> None:
        """Look at a key after a delay, unless an earlier time is noted already."""
        due = asyncio.get_running_loop().time() + max(0.0, delay_s)
        known = self._due.get(key)
        if known is not None and known <= due:
            return
        self._due[key] = due
        heapq.heappush(self._later, (due, next(self._numbers), key))
        self._arm()

    async def get(self) -> Key:
        """Wait for the next key; call `done` or `failed` with it."""
        while True:
            for level, ready in enumerate(self._ready):
                while ready:
                    key = ready.popleft()
                    if self._queued.get(key) != level:
                        continue  # an entry that was overtaken by a more urgent one
                    del self._queued[key]
                    self._busy.add(key)
                    return key
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter

    def done(self, key: Key) -> None:
        """Say that a key was dealt with."""
        self._failures.pop(key, None)
        self._held.pop(key, None)
        self._release(key)

    def failed(self, key: Key, retry_after_s: float | None = None) -> float:
        """Say that a key could not be dealt with; return after how many seconds it is tried again.

        A change that arrives meanwhile shortens a wait of our own, never one that the server asked for.
        """
        tries = self._failures.get(key, 0)
        self._failures[key] = tries + 1
        wait_s = min(self._limit_s, _FIRST_RETRY_S * 2 ** min(tries, 16)) * self._rng.uniform(0.5, 1.0)
        if retry_after_s is not None:
            wait_s = max(wait_s, retry_after_s)
            self._held[key] = asyncio.get_running_loop().time() + retry_after_s
        self._busy.discard(key)
        self._again.pop(key, None)
        self.add_later(key, wait_s)
        return wait_s

    def failures(self, key: Key) -> int:
        """Return how often in a row a key could not be dealt with."""
        return self._failures.get(key, 0)

    def hurry(self) -> None:
        """Try what failed now, as after an outage; what the server asked to wait for is kept."""
        failed = [key for key in self._failures if key not in self._busy]
        self._failures.clear()
        for key in failed:
            self.add(key)

    def _release(self, key: Key) -> None:
        self._busy.discard(key)
        again = self._again.pop(key, None)
        if again is not None:
            self.add(key, again)

    def _wake_one(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._later:
            self._timer = asyncio.get_running_loop().call_at(self._later[0][0], self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._later and self._later[0][0] <= now:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key, Priority.ROUTINE)
        self._arm()
