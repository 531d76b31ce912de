"""FAULTS 8 to 13: the API server is down, answers with errors, throttles, or breaks and silences the watches."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from finetune_operator.settings import Settings
from support.faults import Request, status_object, to
from support.waiting import await_that
from support.world import MERGE, WATCHED, World, complete_message

# The outages of the list of faults last 80 s and 100 s. Backoffs start at 5 ms and double: after 14 s a key already
# waits longer than the 10 s that are allowed after the return, and the watches wait as long as they ever do.
OUTAGE_S = 14.0
RETURN_S = 10.0
# Long enough for watches and keys to fail many times over.
ERRORS_S = 3.0
RETRY_AFTER_S = 3


@pytest.fixture
def impatient(cluster, namespace: str, tmp_path: Path) -> Iterator[World]:
    """A world whose operator takes a watch for dead after 3 s of silence instead of 65."""
    with World(cluster, namespace, tmp_path, flags=("--watch-idle-s=3",)) as found:
        yield found


def job_posts(world: World, name: str = "") -> list[Request]:
    """Return the posts of the Job of one FineTuneJob, or of all."""
    posts = [each for each in world.proxy.requests if to("jobs", "POST")(each)]
    owners = [json.loads(each.body)["metadata"]["ownerReferences"][0]["name"] for each in posts]
    return [post for post, owner in zip(posts, owners, strict=True) if name in {"", owner}]


def lists_and_watches(requests: list[Request], resource: str) -> list[str]:
    found = [each for each in requests if each.resource == resource and each.method == "GET" and not each.name]
    return ["watch" if each.is_watch else "list" for each in found]


def test_f08_down_it_does_not_crash_and_back_its_backlog_is_done_within_ten_seconds(world: World):
    world.start_watching()
    pid = world.operator.pid
    world.apply("running")
    child = world.run("running")
    waiting = [f"waiting-{number}" for number in range(20)]
    world.proxy.fail(503, to("jobs", "POST"))
    for name in waiting:
        world.apply(name)
    await_that(lambda: all(job_posts(world, name) for name in waiting), "a post of every Job")
    world.proxy.down()
    world.kubelet.finish(child, message=complete_message())
    world.apply("made-meanwhile")
    time.sleep(OUTAGE_S)
    world.proxy.heal()
    back_at = time.monotonic()
    for name in (*waiting, "made-meanwhile"):
        world.await_child(name)
    world.await_phase("Complete", "running")
    took_s = time.monotonic() - back_at

    assert took_s <= RETURN_S
    assert world.operator.pid == pid
    assert world.operator.is_running
    assert world.operator.health() == (200, "ok\n")


def test_f09_http_500_to_everything_leaves_it_alive_and_at_work_afterwards(world: World):
    world.start_watching()
    world.apply("before")
    child = world.run("before")
    world.proxy.fail(500)
    world.proxy.end_watches()
    world.kubelet.finish(child, message=complete_message())
    world.apply("during")
    time.sleep(ERRORS_S)
    assert world.operator.is_running
    world.proxy.heal()
    world.await_phase("Complete", "before")
    world.run("during")

    assert world.operator.is_running
    await_that(lambda: world.operator.health() == (200, "ok\n"), "a healthy operator")


def test_f09_started_while_everything_is_http_500_it_waits_and_then_works(world: World):
    world.proxy.fail(500)
    world.operator.start(ready=False)
    world.apply()
    time.sleep(ERRORS_S)
    assert world.operator.is_running
    assert job_posts(world) == []
    world.proxy.heal()
    world.run()

    await_that(lambda: world.operator.health() == (200, "ok\n"), "a healthy operator")


def test_f10_retry_after_is_obeyed_whatever_happens_to_its_key_meanwhile(world: World):
    world.start_watching()
    world.proxy.fail(429, to("jobs", "POST"), times=1, headers={"Retry-After": str(RETRY_AFTER_S)})
    world.apply()
    await_that(lambda: [each.status for each in job_posts(world)][:1] == [429], "the refusal")
    # A change is a reason to look at once, but not sooner than the server allows.
    label = {"metadata": {"labels": {"edited": "while-it-waits"}}}
    world.api.patch(world.url("ftj", "a"), json=label, headers=MERGE).raise_for_status()
    world.await_child()
    refused, taken, *_ = job_posts(world)

    assert taken.status == 201
    assert taken.at - refused.at >= RETRY_AFTER_S


def test_f10_keys_that_are_told_to_wait_an_hour_starve_no_other_key(world: World):
    # As many as there are workers.
    throttled = [f"throttled-{number}" for number in range(Settings().workers)]

    def is_theirs(request: Request) -> bool:
        return to("jobs", "POST")(request) and b"throttled-" in request.body

    world.start_watching()
    world.proxy.fail(429, is_theirs, headers={"Retry-After": "3600"})
    for name in throttled:
        world.apply(name)
    await_that(lambda: all(job_posts(world, name) for name in throttled), "a post of every Job")
    world.apply("other")
    world.await_child("other")

    assert [len(job_posts(world, name)) for name in throttled] == [1] * len(throttled)


@pytest.mark.parametrize("watched", WATCHED)
def test_f11_a_watch_that_ends_with_an_error_is_listed_anew_before_it_is_watched_again(world: World, watched: str):
    world.start_watching()
    for code in (500, 504):
        await_that(lambda: any(map(to(watched, watch=True), world.proxy.open_watches)), f"a watch of {watched}")
        before, broken_at = len(world.proxy.requests), time.monotonic()
        assert world.proxy.watch_error(code, to(watched, watch=True)) == 1
        world.apply(f"after-{code}")
        world.run(f"after-{code}")
        requests = world.proxy.requests[before:]
        asked = lists_and_watches(requests, watched)
        listed_at = next(each.at for each in requests if each.resource == watched and each.method == "GET")

        assert asked[0] == "list"
        assert "watch" in asked
        # 0.1 to 0.4 s on an idle machine.
        assert listed_at - broken_at < 10
    assert world.operator.is_running


def test_f12_after_410_gone_the_only_job_deleted_in_the_gap_is_purged(world: World):
    world.start_watching()
    # Suspended from the start: it has no Job whose deletion would be heard. Alone: the new list is empty.
    world.apply("ghost", suspend=True)
    world.await_phase("Suspended", "ghost")
    world.proxy.stall_watches(to("finetunejobs", watch=True))
    world.delete("ghost")
    before = len(world.proxy.writes)
    assert world.proxy.watch_error(410, to("finetunejobs", watch=True)) == 1
    await_that(lambda: world.operator.known_jobs() == 0, "an empty store", 20)

    assert world.proxy.writes[before:] == []


def test_f12_after_410_gone_on_both_watches_nothing_acts_on_ghosts_and_the_rest_goes_on(world: World):
    world.start_watching()
    for name in ("ghost", "kept"):
        world.apply(name)
        world.run(name)
    ghost = world.child_name("ghost")
    world.proxy.stall_watches()
    world.delete("ghost")
    # As the garbage collector does, which in a young cluster learns of new kinds every 30 s.
    world.api.request("DELETE", world.url("jobs", ghost), json={"propagationPolicy": "Background"})
    await_that(lambda: world.api.get(world.url("jobs", ghost)).status_code == httpx.codes.NOT_FOUND, "its Job gone")
    world.kubelet.finish(world.child_name("kept"), message=complete_message())
    before = len(world.proxy.writes)
    assert world.proxy.watch_error(410) == len(WATCHED)
    world.await_phase("Complete", "kept")
    await_that(lambda: world.operator.known_jobs() == 1, "a store without the ghost", 20)
    world.settle()

    assert [each.path for each in world.proxy.writes[before:] if b"ghost" in each.path.encode() + each.body] == []


def test_f13_watches_that_fall_silent_are_opened_anew(impatient: World):
    world = impatient
    world.start_watching()
    world.apply("before")
    child = world.run("before")
    world.proxy.stall_watches()
    before = len(world.proxy.requests)
    world.kubelet.finish(child, message=complete_message())
    world.apply("after")
    world.await_phase("Complete", "before")
    world.await_child("after")

    assert {each.resource for each in world.proxy.requests[before:] if each.is_watch} == set(WATCHED)


def test_f09_a_server_that_makes_no_job_while_a_webhook_is_down_is_told_and_asked_again(world: World):
    message = 'failed calling webhook "mjob.kb.io": connection refused'
    world.operator.start()
    world.proxy.fail(500, to("jobs", "POST"), body=status_object(500, message))
    world.apply()
    told = world.await_condition("Running", "False", "PostFailed")
    world.proxy.heal()
    world.run()

    assert message in told["message"]
