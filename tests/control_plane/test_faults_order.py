"""FAULTS 14 to 19: events that come again, late, out of order or never; stale versions; names that are taken."""

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api import names
from finetune_api.exit_codes import Reason
from support.faults import Request, to
from support.waiting import await_that
from support.world import MERGE, WATCHED, World, complete_message, failure_message, truth

Object = dict[str, Any]
# 30 s in the list of faults; it only has to be longer than what happens meanwhile.
BEHIND_S = 5.0
LOST_IS_SEEN_S = 30.0


@pytest.fixture
def relisting(cluster, namespace: str, tmp_path: Path) -> Iterator[World]:
    """A world whose operator lists everything anew every 2 s instead of every 7 minutes."""
    with World(cluster, namespace, tmp_path, flags=("--relist-every-s=2",)) as found:
        yield found


def restart_suspend_and_finish(world: World, name: str) -> None:
    world.apply(name)
    world.kubelet.finish(world.run(name), exit_code=77, message=failure_message(Reason.STORAGE_UNAVAILABLE))
    second = world.run(name, attempt=2)
    world.edit(name, {"suspend": True})
    await_that(lambda: world.kubelet.reap(second), "pods that end")
    world.await_phase("Suspended", name)
    world.edit(name, {"suspend": False})
    await_that(lambda: not world.children(name)[-1]["spec"].get("suspend"), "a resumed Job")
    world.kubelet.finish(world.run(name, attempt=2), message=complete_message())
    world.await_phase("Complete", name)


def made_jobs(world: World) -> list[str]:
    """Return the names of the Jobs that were made, in order."""
    posts = [each for each in world.proxy.requests if to("jobs", "POST")(each) and each.status == 201]
    return [json.loads(each.body)["metadata"]["name"] for each in posts]


def written_attempts(world: World, name: str) -> list[int]:
    """Return the attempts that were written to a status, in order."""
    patches = [each for each in world.proxy.writes if to("finetunejobs/status", "PATCH", name)(each)]
    written = [json.loads(each.body)["status"].get("attempt") for each in patches if each.status == 200]
    return [each for each in written if each is not None]


def record_versions(world: World, seen: dict[str, dict[str, Object]]) -> None:
    """Note every FineTuneJob and Job as it is now."""
    for resource, plural in zip(WATCHED, ("ftj", "jobs"), strict=True):
        for item in world.api.get(world.url(plural)).raise_for_status().json()["items"]:
            seen[resource][item["metadata"]["resourceVersion"]] = item


def replay(world: World, seen: dict[str, dict[str, Object]]) -> None:
    """Send all that was ever seen once more, in any order."""
    events = [(resource, body) for resource in WATCHED for body in seen[resource].values()] * 2
    random.Random(1).shuffle(events)
    for resource, body in events:
        kind = "ADDED" if body["metadata"]["generation"] == 1 else "MODIFIED"
        assert world.proxy.inject_watch_event({"type": kind, "object": body}, to(resource, watch=True)) == 1


def test_f14_replayed_events_cause_no_writes(world: World):
    seen: dict[str, dict[str, Object]] = {each: {} for each in WATCHED}
    world.proxy.duplicate_watch_events()
    world.start_watching()
    world.apply()
    record_versions(world, seen)
    child = world.await_child()
    record_versions(world, seen)
    world.run()
    record_versions(world, seen)
    world.kubelet.finish(child, exit_code=77, message=failure_message(Reason.STORAGE_UNAVAILABLE))
    world.await_phase("Restarting")
    record_versions(world, seen)
    child = world.run(attempt=2)
    record_versions(world, seen)
    world.settle()
    before = len(world.proxy.writes)
    replay(world, seen)
    time.sleep(1.0)
    assert world.proxy.writes[before:] == []
    world.kubelet.finish(child, message=complete_message())
    world.await_phase("Complete")
    world.settle()
    before = len(world.proxy.writes)
    replay(world, seen)
    time.sleep(1.0)

    assert world.proxy.writes[before:] == []
    assert len(seen["finetunejobs"]) >= 4
    assert made_jobs(world) == [world.child_name(), world.child_name(attempt=2)]


def test_f15_whichever_kind_is_heard_late_the_end_is_the_same(world: World):
    world.start_watching()
    for late in WATCHED:
        world.proxy.delay_watches(0.5, to(late, watch=True))
        restart_suspend_and_finish(world, f"late-{late}")
        world.proxy.heal()
    world.settle()

    end = truth(world, "late-jobs")

    assert truth(world, "late-finetunejobs") == end
    assert (end["phase"], end["attempt"], end["restarts"], end["jobs"]) == ("Complete", 2, 1, [1, 2])
    assert len(made_jobs(world)) == 4


def test_f15_an_edit_that_was_taken_back_is_not_acted_on_when_news_of_the_gang_overtake_it(world: World):
    world.start_watching()
    world.apply()
    child = world.await_child()
    world.proxy.delay_watches(BEHIND_S / 2, to("finetunejobs", watch=True))
    world.edit("a", {"suspend": True})
    # kopf hands on the last of the events of a tenth of a second alone.
    time.sleep(0.3)
    world.edit("a", {"suspend": False})
    # Its status is written onto the newest version; both edits are heard after that.
    world.run()
    time.sleep(BEHIND_S / 2 + 0.5)

    assert [each.body for each in world.proxy.writes if to("jobs", "PATCH", child)(each)] == []
    assert world.status()["phase"] == "Running"


def test_f16_watches_far_behind_our_writes_make_no_second_job_and_no_attempt_falls(world: World):
    world.start_watching()
    world.apply()
    world.await_child()
    world.proxy.delay_watches(BEHIND_S, to("finetunejobs", watch=True))
    world.proxy.delay_watches(BEHIND_S / 10, to("jobs", watch=True))
    for attempt in (1, 2):
        child = world.run(attempt=attempt)
        world.kubelet.finish(child, exit_code=77, message=failure_message(Reason.STORAGE_UNAVAILABLE))
    world.kubelet.finish(world.run(attempt=3), message=complete_message())
    world.await_phase("Complete")
    # What is still on its way tells of the first and second attempt.
    time.sleep(BEHIND_S + 0.5)
    attempts = written_attempts(world, "a")

    assert made_jobs(world) == [world.child_name(attempt=attempt) for attempt in (1, 2, 3)]
    assert attempts == sorted(attempts)
    assert world.status()["attempt"] == 3
    assert world.status()["phase"] == "Complete"


def test_f16_late_events_of_deleted_jobs_bring_none_of_them_back(relisting: World):
    world = relisting
    world.start_watching()
    doomed = ["x", "y", "z"]
    for name in doomed:
        world.apply(name, suspend=True)
        world.await_phase("Suspended", name)
    world.proxy.delay_watches(BEHIND_S, to("finetunejobs", watch=True))
    lists = len(own_lists(world))
    await_that(lambda: len(own_lists(world)) > lists, "a list")
    # Between two lists: only the watch tells that they were to go on.
    for name in doomed:
        world.edit(name, {"suspend": False})
    time.sleep(0.5)
    for name in doomed:
        world.delete(name)
    await_that(lambda: world.operator.known_jobs() == 0, "an empty store")
    before = len(world.proxy.writes)
    time.sleep(BEHIND_S + 1)

    assert world.proxy.writes[before:] == []


def own_lists(world: World) -> list[Request]:
    """Return the operator's own whole lists of FineTuneJobs; kopf has another name."""
    found = [each for each in world.proxy.requests if to("finetunejobs", "GET", watch=False)(each)]
    return [each for each in found if each.user_agent == "finetune-operator" and "fieldSelector" not in each.params]


def is_new_job(event: Object) -> bool:
    return event["type"] == "ADDED" and event["object"]["kind"] == names.KIND


def is_ready_gang(event: Object) -> bool:
    return event["object"]["kind"] == "Job" and bool(event["object"].get("status", {}).get("ready"))


def is_ended_gang(event: Object) -> bool:
    conditions = event["object"].get("status", {}).get("conditions") or []
    return event["object"]["kind"] == "Job" and any(each["type"] == "Complete" for each in conditions)


@pytest.mark.parametrize("lost", [is_new_job, is_ready_gang, is_ended_gang])
def test_f17_an_event_that_was_lost_is_healed_by_the_next_list(relisting: World, lost: Callable[[Object], bool]):
    world = relisting
    dropped: list[str] = []

    def drop(event: Object) -> bool:
        if event["type"] == "BOOKMARK" or not lost(event):
            return False
        dropped.append(event["object"]["metadata"]["name"])
        return True

    world.start_watching()
    world.proxy.drop_watch_events(drop)
    world.apply()
    world.kubelet.finish(world.run(), message=complete_message())
    world.await_phase("Complete")

    assert dropped != []


def test_f17_a_deletion_that_was_lost_is_healed_by_the_next_list(relisting: World):
    world = relisting
    world.start_watching()
    world.apply("gone", suspend=True)
    world.await_phase("Suspended", "gone")
    world.proxy.drop_watch_events(lambda event: event["type"] == "DELETED")
    world.delete("gone")

    await_that(lambda: world.operator.known_jobs() == 0, "an empty store", LOST_IS_SEEN_S)


def test_f18_a_conflict_on_the_status_is_decided_anew_from_the_newer_version(world: World):
    edited: list[str] = []

    def edit() -> None:
        body = {"metadata": {"annotations": {"edited": "under-its-hands"}}}
        answer = world.api.patch(world.url("ftj", "a"), json=body, headers=MERGE).raise_for_status()
        edited.append(answer.json()["metadata"]["resourceVersion"])

    world.start_watching()
    world.apply()
    world.await_child()
    # The newer version can then only come from asking for it.
    world.proxy.stall_watches(to("finetunejobs", watch=True))
    world.proxy.before_write(1, edit, to("finetunejobs/status", "PATCH"), lose=False)
    world.run()
    # The status is there before the operator has its answer.
    world.settle()
    asked = [each for each in world.proxy.requests if each.name == "a"]
    patches = [each for each in asked if each.resource == "finetunejobs/status"]
    between = asked[asked.index(patches[0]) + 1 : asked.index(patches[1])]

    assert [each.status for each in patches][:2] == [409, 200]
    assert [(each.method, each.resource) for each in between] == [("GET", "finetunejobs")]
    assert [json.loads(patches[1].body)["metadata"]["resourceVersion"]] == edited
    assert world.job()["metadata"]["annotations"]["edited"] == "under-its-hands"


@pytest.mark.parametrize("owner", ["nobody", "somebody"])
def test_f19_a_job_name_that_is_taken_is_a_condition_and_the_job_is_never_adopted(world: World, owner: str):
    uid = world.apply()["metadata"]["uid"]
    name = names.job_name("a", uid, 1)
    world.api.post(world.url("jobs"), json=foreign_job(world, name, owned=owner == "somebody")).raise_for_status()
    foreign = job_spec(world, name)
    world.start_watching()
    conflict = world.await_condition("NameConflict", "True")
    world.apply("other")
    world.run("other")

    assert name in conflict["message"]
    assert job_spec(world, name) == foreign
    touched = [each.method for each in world.proxy.writes if to("jobs", name=name)(each)]
    assert touched == []
    assert world.status()["phase"] == "Pending"
    # Once the name is free, the job goes on by itself.
    world.api.request("DELETE", world.url("jobs", name), json={"propagationPolicy": "Background"}).raise_for_status()
    await_that(lambda: name in made_jobs(world), "our Job")
    world.await_condition("NameConflict", "False")


def foreign_job(world: World, name: str, *, owned: bool) -> Object:
    """Return a suspended Job of somebody else; one that copied our labels too when it is owned."""
    metadata: Object = {"name": name}
    if owned:
        body = {"metadata": {"name": "owner"}}
        uid = world.api.post(world.url("configmaps"), json=body).raise_for_status().json()["metadata"]["uid"]
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid, "controller": True}
        metadata |= {"ownerReferences": [owner], "labels": {names.LABEL_MANAGED_BY: names.MANAGER}}
    container = {"name": "c", "image": "somebody-elses"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {"metadata": metadata, "spec": {"suspend": True, "template": template}}


def job_spec(world: World, name: str) -> Object:
    found = world.api.get(world.url("jobs", name)).raise_for_status().json()
    kept = ("uid", "labels", "ownerReferences")
    return {"spec": found["spec"], **{each: found["metadata"].get(each) for each in kept}}
