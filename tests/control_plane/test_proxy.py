"""The fault proxy against the real API server: it passes everything on, and each fault does what it says."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest

from support.faults import to
from support.proxy import FaultProxy

PATIENCE_S = 20.0


@pytest.fixture
def client(cluster, proxy: FaultProxy) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {cluster.token}", "User-Agent": "tester"}
    with httpx.Client(base_url=proxy.url, headers=headers, trust_env=False, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture
def maps(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps"


class Watch:
    """A watch read in a thread."""

    def __init__(self, answer: httpx.Response) -> None:
        self.events: list[dict[str, Any]] = []
        self.ended = threading.Event()
        self._answer = answer
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with suppress(httpx.TransportError, httpx.StreamError):
            for line in self._answer.iter_lines():
                self.events.append(json.loads(line))
        self.ended.set()

    @property
    def names(self) -> list[str]:
        return [each["object"]["metadata"].get("name", "") for each in self.events]


@contextmanager
def watching(client: httpx.Client, path: str) -> Iterator[Watch]:
    version = client.get(path).json()["metadata"]["resourceVersion"]
    params = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "60"}
    with client.stream("GET", path, params=params) as answer:
        assert answer.status_code == httpx.codes.OK
        yield Watch(answer)


def named(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}}


def within(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return condition()


def own(watch: Watch) -> list[str]:
    """Return the names that the test made; each namespace gets a ConfigMap with its root certificate."""
    return [name for name in watch.names if name != "kube-root-ca.crt"]


def test_requests_pass_with_their_query_body_and_answer_and_are_recorded(
    proxy: FaultProxy, client: httpx.Client, maps: str
):
    made = client.post(maps, json=named("a"), params={"fieldValidation": "Strict"})
    again = client.post(maps, json=named("a"))
    found = client.get(maps, params={"fieldSelector": "metadata.name=a"}).json()

    assert (made.status_code, again.status_code) == (201, 409)
    assert [each["metadata"]["name"] for each in found["items"]] == ["a"]
    assert [(each.method, each.resource, each.status) for each in proxy.requests] == [
        ("POST", "configmaps", 201),
        ("POST", "configmaps", 409),
        ("GET", "configmaps", 200),
    ]
    assert len(proxy.writes) == 2
    assert proxy.requests[0].params == {"fieldValidation": "Strict"}
    assert proxy.requests[0].user_agent == "tester"


def test_the_parts_of_a_path_are_told_apart(proxy: FaultProxy, client: httpx.Client, namespace: str):
    client.get(f"/api/v1/namespaces/{namespace}")
    client.get(f"/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunejobs/a/status")
    client.get("/apis/batch/v1/jobs")

    assert [(each.resource, each.name) for each in proxy.requests] == [
        ("namespaces", namespace),
        ("finetunejobs/status", "a"),
        ("jobs", ""),
    ]


def test_a_body_of_a_megabyte_passes(client: httpx.Client, maps: str):
    large = named("large") | {"binaryData": {"x": "A" * 1_400_000}}

    # The API server's own limit is what refuses it, not the proxy's.
    assert client.post(maps, json=large).status_code == httpx.codes.UNPROCESSABLE_ENTITY


def test_while_it_is_down_connections_are_refused_and_watches_end(proxy: FaultProxy, client: httpx.Client, maps: str):
    with watching(client, maps) as watch:
        proxy.down()

        assert watch.ended.wait(PATIENCE_S)
        with pytest.raises(httpx.TransportError):
            client.get(maps)

        proxy.heal()
        assert client.get(maps).status_code == httpx.codes.OK


def test_chosen_requests_fail_as_often_as_wanted_and_never_reach_the_server(
    proxy: FaultProxy, client: httpx.Client, maps: str
):
    proxy.fail(429, to("configmaps", "POST"), times=2, headers={"Retry-After": "5"})

    answers = [client.post(maps, json=named("a")) for _ in range(3)]

    assert [each.status_code for each in answers] == [429, 429, 201]
    assert answers[0].headers["Retry-After"] == "5"
    assert answers[0].json()["reason"] == "TooManyRequests"


def test_heal_lifts_what_has_no_count(proxy: FaultProxy, client: httpx.Client, maps: str):
    proxy.fail(500)
    before = client.get(maps).status_code
    proxy.heal()

    assert (before, client.get(maps).status_code) == (500, 200)


def test_a_delayed_request_is_released_by_heal(proxy: FaultProxy, client: httpx.Client, maps: str):
    proxy.delay(3600)
    threading.Timer(0.1, proxy.heal).start()

    assert client.get(maps).status_code == httpx.codes.OK


def test_watch_events_pass_as_they_happen(client: httpx.Client, maps: str):
    with watching(client, maps) as watch:
        client.post(maps, json=named("a")).raise_for_status()

        assert within(lambda: own(watch) == ["a"])


def test_a_stalled_watch_stays_open_and_silent_while_a_new_one_works(
    proxy: FaultProxy, client: httpx.Client, maps: str
):
    with watching(client, maps) as old:
        proxy.stall_watches()
        with watching(client, maps) as new:
            client.post(maps, json=named("a")).raise_for_status()

            assert within(lambda: "a" in new.names)
            assert "a" not in old.names
            assert not old.ended.is_set()
        proxy.heal()
        assert within(lambda: "a" in old.names)


def test_delayed_watches_deliver_in_order_and_heal_delivers_at_once(proxy: FaultProxy, client: httpx.Client, maps: str):
    with watching(client, maps) as watch:
        proxy.delay_watches(3600, to("configmaps"))
        for name in "abc":
            client.post(maps, json=named(name)).raise_for_status()
        held = own(watch)
        proxy.heal()

        assert held == []
        assert within(lambda: own(watch) == ["a", "b", "c"])


def test_a_dropped_event_is_lost_and_later_ones_arrive(proxy: FaultProxy, client: httpx.Client, maps: str):
    with watching(client, maps) as watch:
        proxy.drop_watch_events(lambda event: event["object"]["metadata"]["name"] in "ab", times=1)
        for name in "abc":
            client.post(maps, json=named(name)).raise_for_status()

        assert within(lambda: own(watch) == ["b", "c"])


def test_events_can_arrive_twice(proxy: FaultProxy, client: httpx.Client, maps: str):
    with watching(client, maps) as watch:
        proxy.duplicate_watch_events()
        client.post(maps, json=named("a")).raise_for_status()

        assert within(lambda: own(watch) == ["a", "a"])


def test_an_error_is_put_into_open_watches_and_ends_them(proxy: FaultProxy, client: httpx.Client, maps: str):
    with watching(client, maps) as watch:
        assert within(lambda: len(proxy.open_watches) == 1)
        reached = proxy.watch_error(410)

        assert reached == 1
        assert watch.ended.wait(PATIENCE_S)
        assert watch.events[-1]["type"] == "ERROR"
        assert (watch.events[-1]["object"]["code"], watch.events[-1]["object"]["reason"]) == (410, "Expired")


def test_watches_can_be_ended_and_events_replayed(proxy: FaultProxy, client: httpx.Client, maps: str):
    with watching(client, maps) as watch:
        proxy.inject_watch_event({"type": "MODIFIED", "object": named("ghost")})
        assert within(lambda: own(watch) == ["ghost"])
        proxy.end_watches(to("configmaps"))

        assert watch.ended.wait(PATIENCE_S)


def test_a_watch_that_its_client_leaves_is_closed_upstream_too(proxy: FaultProxy, client: httpx.Client, maps: str):
    with client.stream("GET", maps, params={"watch": "1"}):
        assert within(lambda: len(proxy.open_watches) == 1)

    assert within(lambda: proxy.open_watches == [])


def test_the_callback_runs_after_the_kth_write_was_done_and_before_its_answer(
    cluster, proxy: FaultProxy, client: httpx.Client, maps: str
):
    seen: list[int] = []
    with cluster.client() as direct:
        proxy.after_write(2, lambda: seen.append(direct.get(f"{maps}/b").status_code), lose=True)
        client.post(maps, json=named("a")).raise_for_status()
        with pytest.raises(httpx.TransportError):
            client.post(maps, json=named("b"))

    assert seen == [200]
    assert client.post(maps, json=named("c")).status_code == httpx.codes.CREATED


def test_a_write_can_be_lost_before_the_server_sees_it(proxy: FaultProxy, client: httpx.Client, maps: str):
    called: list[str] = []
    proxy.before_write(1, lambda: called.append("x"), to("configmaps", "POST"))
    with pytest.raises(httpx.TransportError):
        client.post(maps, json=named("a"))

    assert called == ["x"]
    assert client.get(f"{maps}/a").status_code == httpx.codes.NOT_FOUND


def test_a_callback_may_set_a_fault(proxy: FaultProxy, client: httpx.Client, maps: str):
    proxy.after_write(1, lambda: proxy.fail(500, times=1))

    assert client.post(maps, json=named("a")).status_code == httpx.codes.CREATED
    assert [client.get(maps).status_code for _ in range(2)] == [500, 200]
