"""The store takes newer versions only: replays, late events and ghosts change nothing."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.observe import JobFacts
from finetune_operator.store import Key, Store, record_of
from support.jobs import NOON, A, pod

KEY = Key("ml", "a")


def body(version: int, uid: str = "u1", phase: str = "") -> dict[str, Any]:
    metadata = {
        "name": "a",
        "namespace": "ml",
        "uid": uid,
        "resourceVersion": str(version),
        "creationTimestamp": "2026-01-01T12:00:00Z",
        "generation": 1,
    }
    return {"metadata": metadata, "spec": {"task": "t"}, "status": {"phase": phase} if phase else {}}


def job(version: int, uid: str = "j1") -> JobFacts:
    (facts,) = A().job().children.values()
    return replace(facts, version=version, uid=uid, owner_uid="u1")


def test_a_replayed_or_older_event_is_not_taken():
    store = Store()

    assert store.put(record_of(body(5)))
    assert not store.put(record_of(body(5)))
    assert not store.put(record_of(body(4, phase="Running")))
    assert store.records[KEY].version == 5


def test_a_late_event_of_a_deleted_job_does_not_bring_it_back():
    store = Store()
    store.put(record_of(body(5)))

    assert store.remove(KEY, "u1", 6)
    assert not store.put(record_of(body(5)))
    assert KEY not in store.records


def test_a_deletion_of_the_predecessor_does_not_remove_the_job_made_anew_under_its_name():
    store = Store()
    store.put(record_of(body(5)))
    store.put(record_of(body(9, uid="u2")))

    assert not store.remove(KEY, "u1", 8)
    assert store.records[KEY].uid == "u2"
    assert store.key_of("u1") is None


def test_an_event_of_the_predecessor_does_not_replace_the_job_made_anew():
    store = Store()
    store.put(record_of(body(9, uid="u2")))

    assert not store.put(record_of(body(7, uid="u1")))
    assert store.records[KEY].uid == "u2"


def test_a_list_drops_what_it_lacks_and_keeps_what_is_newer_than_it():
    store = Store()
    store.put(record_of(body(5)))
    gone = list(store.purge("", set(), 6))
    store.put(record_of(body(9, uid="u2")))
    kept = list(store.purge("", set(), 6))

    assert gone == [KEY]
    assert kept == []
    assert store.records[KEY].uid == "u2"


def test_a_list_of_one_namespace_drops_nothing_of_another():
    store = Store()
    store.put(record_of(body(5)))

    assert list(store.purge("other", set(), 6)) == []
    assert list(store.purge("ml", {"u1"}, 6)) == []
    assert KEY in store.records


def test_jobs_are_counted_by_their_newest_phase():
    store = Store()
    store.put(record_of(body(5)))
    store.put(record_of(body(6, phase="Pending")))
    pending = store.phases["Pending"], store.phases[""]
    store.put(record_of(body(9, uid="u2", phase="Running")))
    running = store.phases["Pending"], store.phases["Running"]
    store.remove(KEY, "u2", 10)

    assert pending == (1, 0)
    assert running == (0, 1)
    assert store.phases.total() == 0


def test_a_job_that_vanished_is_noted_until_it_was_dealt_with():
    store = Store()
    store.put(record_of(body(5)))
    store.put_job(job(6))

    assert store.remove_job(job(7))
    assert store.vanished("u1")
    store.settle("u1")
    assert not store.vanished("u1")


def test_a_pod_that_is_gone_from_a_later_list_is_kept_as_evidence():
    store = Store()
    store.see_pods("u1", job(1), (pod(0), pod(1)), "failing", NOON)
    store.see_pods("u1", job(1), (pod(1, exit_code=1),), "ended", NOON)

    assert {each.index: each.deleting for each in store.memory("u1").pods} == {0: True, 1: False}


@given(st.permutations([1, 2, 3, 4, 5]))
def test_events_in_any_order_end_in_the_newest(versions: list[int]):
    store = Store()
    for version in versions:
        store.put(record_of(body(version, phase=f"v{version}")))
        store.put_job(job(version))

    assert store.records[KEY].phase == "v5"
    assert store.children("u1")[job(1).name].version == 5


def test_what_is_gone_leaves_nothing_behind():
    store = Store()
    store.put(record_of(body(5)))
    empty = Store()
    store.put_job(job(6))
    store.remove_job(job(7))
    store.remove(KEY, "u1", 8)
    store.put_job(job(9))
    store.remove_job(job(10))

    held = {name: value for name, value in vars(store).items() if name != "_ended"}
    assert held == {name: value for name, value in vars(empty).items() if name != "_ended"}
