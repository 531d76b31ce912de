"""The dirty queue: one entry per key, one worker per key, urgency, delays, backoff."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from finetune_operator.queue import DirtyQueue, Priority
from finetune_operator.store import Key

A, B, C = (Key("ns", name) for name in "abc")


def run(story: Callable[[DirtyQueue], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(20):
            await story(DirtyQueue(30.0, random.Random(1)))

    asyncio.run(whole())


def test_a_key_marked_twice_is_handed_out_once():
    async def story(queue: DirtyQueue) -> None:
        queue.add(A)
        queue.add(A)

        assert await queue.get() == A
        assert len(queue) == 0

    run(story)


def test_a_key_marked_while_it_is_worked_on_is_handed_out_once_more_and_not_before_it_is_done():
    async def story(queue: DirtyQueue) -> None:
        queue.add(A)
        await queue.get()
        queue.add(A)
        queue.add(B)

        assert await queue.get() == B
        queue.done(A)
        assert await queue.get() == A

    run(story)


def test_what_ends_comes_before_what_is_new_and_what_is_new_before_the_rest():
    async def story(queue: DirtyQueue) -> None:
        queue.add(A, Priority.ROUTINE)
        queue.add(B, Priority.NEW)
        queue.add(C, Priority.FINISH)

        assert [await queue.get() for _ in range(3)] == [C, B, A]

    run(story)


def test_a_key_that_became_urgent_overtakes_and_is_handed_out_once():
    async def story(queue: DirtyQueue) -> None:
        queue.add(A, Priority.ROUTINE)
        queue.add(B, Priority.NEW)
        queue.add(A, Priority.FINISH)

        assert [await queue.get() for _ in range(2)] == [A, B]
        assert len(queue) == 0

    run(story)


def test_the_earliest_of_several_times_counts():
    async def story(queue: DirtyQueue) -> None:
        queue.add_later(A, 3600)
        queue.add_later(A, 0.01)
        queue.add_later(A, 7200)

        assert await queue.get() == A

    run(story)


def test_waits_after_failures_grow_up_to_the_limit_and_start_anew_after_a_success():
    async def story(queue: DirtyQueue) -> None:
        waits = []
        for _ in range(20):
            queue.add(A)
            await queue.get()
            waits.append(queue.failed(A))

        assert waits[0] <= 0.005
        assert waits[5] > waits[0]
        assert 15.0 <= waits[-1] <= 30.0
        queue.add(A)
        await queue.get()
        queue.done(A)
        queue.add(A)
        await queue.get()
        assert queue.failed(A) <= 0.005

    run(story)


def test_a_wait_that_the_server_asks_for_is_obeyed_and_holds_no_other_key():
    async def story(queue: DirtyQueue) -> None:
        queue.add(A)
        await queue.get()

        assert queue.failed(A, retry_after_s=5.0) == pytest.approx(5.0)
        queue.add(B)
        assert await queue.get() == B
        assert len(queue) == 0

    run(story)


def test_what_failed_is_tried_at_once_after_an_outage_but_not_before_the_time_that_the_server_asked_for():
    async def story(queue: DirtyQueue) -> None:
        for key, retry_after_s in ((A, None), (B, 5.0)):
            queue.add(key)
            await queue.get()
            for _ in range(12):
                queue.failed(key, retry_after_s)
        queue.hurry()

        assert await asyncio.wait_for(queue.get(), 1.0) == A
        assert len(queue) == 0

    run(story)
