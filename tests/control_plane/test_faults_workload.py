"""FAULTS 20 to 26: Jobs and pods that somebody deletes, edits, evicts or loses, and every way in which a gang ends."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from finetune_api import names
from finetune_api.exit_codes import Reason, exit_code
from support import pod_states
from support.faults import Request, to
from support.shared_world import attempts, delete_child, messages, patch, shared_world, writes_about, writes_during
from support.waiting import await_that
from support.world import World, complete_message, failure_message

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def world(cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with shared_world(cluster, "faults-workload", tmp_path_factory.mktemp("operator"), "--node-lost-s=4") as found:
        yield found


@pytest.fixture
def job() -> str:
    return f"job{next(_numbers)}-x"


def run_config(world: World, job: str, attempt: int) -> dict[str, Any]:
    found = world.api.get(world.url("jobs", world.child_name(job, attempt))).raise_for_status().json()
    return json.loads(found["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_RUN_CONFIG])


def disrupt(world: World, child: str, index: int, reason: str) -> None:
    """Mark a pod as disrupted and delete it; it stays terminating."""
    pod = world.url("pods", world.kubelet.pod(child, index)["metadata"]["name"])
    headers = {"Content-Type": "application/strategic-merge-patch+json"}
    told = {"status": pod_states.disrupted(reason, "taken away")}
    world.api.patch(f"{pod}/status", json=told, headers=headers).raise_for_status()
    world.kubelet.delete(child, index)


def listing(request: Request, child: str) -> bool:
    return request.resource == "pods" and child in request.params.get("labelSelector", "") and bool(request.status)


def posted(world: World) -> int:
    return sum(map(to("jobs", "POST"), world.proxy.requests))


def test_f20_a_job_deleted_before_it_ran_is_made_again_under_its_name_with_an_event(world: World, job: str):
    world.apply(job)
    child = world.await_child(job)
    uid = world.children(job)[0]["metadata"]["uid"]
    delete_child(world, child)
    await_that(lambda: [each["metadata"]["uid"] for each in world.children(job)] not in ([], [uid]), "a Job made anew")

    assert [each["metadata"]["name"] for each in world.children(job)] == [child]
    await_that(lambda: any(child in each for each in messages(world, job, "Drift")), "an event")
    world.run(job)
    assert world.status(job)["attempt"] == 1
    assert world.status(job).get("restarts", 0) == 0


def test_f20_a_job_deleted_while_it_ran_is_followed_by_the_next_attempt_with_an_event(world: World, job: str):
    world.apply(job)
    child = world.run(job)
    delete_child(world, child)
    world.run(job, attempt=2)

    assert world.status(job)["attempt"] == 2
    assert world.status(job).get("restarts", 0) == 0
    assert any("deleted by somebody else" in each for each in messages(world, job, "Evicted"))


def test_f20_a_deletion_by_hand_is_not_the_first_of_two_ends_that_nothing_explains(world: World, job: str):
    world.apply(job)
    delete_child(world, world.run(job))
    world.kubelet.finish(world.run(job, attempt=2), exit_code=1)
    world.run(job, attempt=3)

    assert world.status(job)["restarts"] == 1


def test_f21_labels_that_somebody_edits_are_restored_with_an_event(world: World, job: str):
    jobs = {f"{job}-runs": world.run, f"{job}-waits": world.await_child}
    for name in jobs:
        world.apply(name)
    children = {name: begin(name) for name, begin in jobs.items()}
    world.settle()

    def labels(child: str) -> dict[str, str]:
        return world.api.get(world.url("jobs", child)).raise_for_status().json()["metadata"]["labels"]

    before = {child: labels(child) for child in children.values()}
    # Without the last one the Job is not in the operator's watch any more.
    edited = {names.LABEL_ATTEMPT: "7", names.LABEL_JOB_UID: None, names.LABEL_MANAGED_BY: None}
    for child in before:
        patch(world, "jobs", child, {"metadata": {"labels": edited}})
    await_that(lambda: all(labels(child) == kept for child, kept in before.items()), "the labels", 20)
    for name, child in children.items():
        await_that(lambda name=name: any("labels" in each for each in messages(world, name, "Drift")), "an event")
        # It is still ours: what happens to its pods is seen.
        world.kubelet.finish(child, message=complete_message())
    for name in jobs:
        world.await_phase("Complete", name)


def test_f21_a_changed_spec_is_told_and_not_fought(world: World, job: str):
    world.apply(job)
    child = world.run(job)
    world.settle()
    before = len(writes_about(world, job))
    edited = world.edit(job, {"pod": {"labels": {"team": "vision"}}})
    generation = edited["metadata"]["generation"]
    await_that(lambda: world.status(job)["observedGeneration"] == generation, "observedGeneration")
    await_that(lambda: messages(world, job, "SpecChanged"), "an event")
    world.settle()

    assert sorted(each.resource for each in writes_about(world, job)[before:]) == ["events", "finetunejobs/status"]
    assert world.status(job)["phase"] == "Running"
    world.kubelet.finish(child, exit_code=exit_code(Reason.STORAGE_UNAVAILABLE))
    world.await_child(job, attempt=2)
    assert world.children(job)[-1]["spec"]["template"]["metadata"]["labels"]["team"] == "vision"


def test_f21_a_change_that_shapes_no_pod_is_observed_and_not_told(world: World, job: str):
    world.apply(job)
    world.run(job)
    edited = world.edit(job, {"restarts": {"limit": 9}})
    await_that(
        lambda: world.status(job)["observedGeneration"] == edited["metadata"]["generation"], "observedGeneration"
    )
    world.settle()

    assert messages(world, job, "SpecChanged") == []


def test_f21_labels_that_were_removed_while_the_operator_was_down_are_restored(world: World, job: str):
    world.apply(job)
    child = world.await_child(job)
    world.operator.kill()
    patch(world, "jobs", child, {"metadata": {"labels": {names.LABEL_MANAGED_BY: None}}})
    world.operator.start()
    world.kubelet.finish(child, message=complete_message())

    world.await_phase("Complete", job)
    assert len(world.children(job)) == 1


def test_f22_a_disruption_is_not_counted_and_the_next_attempt_follows(world: World, job: str):
    kinds = {f"{job}-{kind.lower()}": kind for kind in ("EvictionByEvictionAPI", "PreemptionByScheduler")}
    kinds |= {f"{job}-kubelet": "TerminationByKubelet"}
    for name in kinds:
        world.apply(name, restarts={"limit": 0})
    for name, kind in kinds.items():
        # The pod is gone before anybody can look at it; the Job's condition tells the class.
        world.kubelet.evict(world.run(name), reason=kind)
    for name in kinds:
        world.run(name, attempt=2)
        status = world.status(name)

        assert (status["attempt"], status["restarts"]) == (2, 0)
        assert status["failure"]["reason"] in {"Evicted", "Preempted"}
        assert messages(world, name, status["failure"]["reason"])


DISRUPTIONS = {"EvictionByEvictionAPI": "Evicted", "PreemptionByScheduler": "Preempted", "DeletionByPodGC": "NodeLost"}


def test_f22_a_pod_that_takes_its_time_to_end_tells_why_it_was_disrupted(world: World, job: str):
    children: dict[str, str] = {}
    for kind in DISRUPTIONS:
        world.apply(f"{job}-{kind.lower()}")
    for kind in DISRUPTIONS:
        children[kind] = world.run(f"{job}-{kind.lower()}")
    before = len(world.proxy.requests)
    for kind, child in children.items():
        disrupt(world, child, 0, kind)
    for child in children.values():
        await_that(lambda child=child: any(listing(each, child) for each in world.proxy.requests[before:]), "a look")
        world.kubelet.reap(child)
    for kind, reason in DISRUPTIONS.items():
        name = f"{job}-{kind.lower()}"
        world.run(name, attempt=2)

        assert world.status(name)["failure"]["reason"] == reason
        assert kind in world.status(name)["failure"]["message"]
        assert world.status(name)["restarts"] == (1 if reason == "NodeLost" else 0)


def test_f23_a_lost_node_gets_no_second_rank_and_the_attempt_is_given_up_after_the_timeout(world: World, job: str):
    world.apply(job, workers={"nodes": 2}, storage={"claimName": "work"})
    child = world.run(job)
    world.kubelet.lose_node(child, 1)
    disrupt(world, child, 1, "DeletionByTaintManager")
    await_that(lambda: world.children(job)[0]["status"].get("terminating"), "a pod that is terminating")
    written = writes_during(world, job, 2)

    assert [each for each in written if each.resource != "events"] == []
    assert attempts(world, job) == [1]
    assert len(world.kubelet.pods(child)) == 2

    world.await_child(job, attempt=2)
    status = world.status(job)
    assert (status["attempt"], status["restarts"]) == (2, 1)
    assert status["failure"]["reason"] == "NodeLost"
    await_that(lambda: attempts(world, job) == [2], "the end of the first Job")


def test_f24_an_error_of_the_user_fails_at_once(world: World, job: str):
    world.apply(job)
    world.kubelet.finish(world.run(job), exit_code=65, message=failure_message(Reason.DATA_ERROR, "train.csv row 7"))
    status = world.await_phase("Failed", job)
    world.settle()

    assert status["failure"]["reason"] == "DataError"
    assert status["failure"]["message"].startswith("train.csv row 7")
    assert status["failure"]["remedy"] == "mend it"
    assert attempts(world, job) == [1]


def test_f24_an_error_of_the_infrastructure_is_followed_by_another_attempt_up_to_the_limit(world: World, job: str):
    world.apply(job, restarts={"limit": 1})
    for attempt in (1, 2):
        child = world.run(job, attempt=attempt)
        world.kubelet.finish(child, exit_code=exit_code(Reason.STORAGE_UNAVAILABLE))
    status = world.await_phase("Failed", job)

    assert status["failure"]["reason"] == "RestartLimitExceeded"
    assert "StorageUnavailable" in status["failure"]["message"]
    assert attempts(world, job) == [1, 2]


def test_f24_memory_that_ran_out_is_followed_by_an_attempt_with_half_the_micro_batch(world: World, job: str):
    reasons = {f"{job}-device": Reason.DEVICE_OUT_OF_MEMORY, f"{job}-host": Reason.HOST_OUT_OF_MEMORY}
    for name in reasons:
        world.apply(name, training={"batchSize": 8})
    children = {name: world.run(name) for name in reasons}
    message = failure_message(Reason.DEVICE_OUT_OF_MEMORY)
    world.kubelet.finish(children[f"{job}-device"], exit_code=78, message=message)
    world.kubelet.oom(children[f"{job}-host"])
    for name, reason in reasons.items():
        world.run(name, attempt=2)
        second = run_config(world, name, 2)

        assert run_config(world, name, 1).get("microBatch") is None
        assert second["microBatch"] == 4
        assert second["spec"]["training"]["batchSize"] == 8
        assert world.status(name)["failure"]["reason"] == reason.value
        assert world.status(name)["resolved"]["microBatchLimit"].startswith("4 ")
        assert messages(world, name, "MicroBatchHalved")


def test_f26_nothing_runs_a_finished_job_again(world: World, job: str):
    ends = {f"{job}-complete": "Complete", f"{job}-failed": "Failed"}
    for name in ends:
        world.apply(name)
    children = {name: world.run(name) for name in ends}
    world.kubelet.finish(children[f"{job}-complete"], message=complete_message())
    world.kubelet.finish(children[f"{job}-failed"], exit_code=65)
    before = {name: world.await_phase(phase, name) for name, phase in ends.items()}
    world.settle()
    posts = posted(world)

    for name, child in children.items():
        world.edit(name, {"pod": {"labels": {"x": "y"}}, "suspend": True})
        await_that(lambda name=name: world.status(name)["observedGeneration"] == 2, "an edit that was seen")
        world.edit(name, {"suspend": False})
        delete_child(world, child)
    world.settle()
    world.proxy.watch_error(410)
    world.operator.restart()
    world.settle(2)

    assert posted(world) == posts
    for name in ends:
        assert world.children(name) == []
        assert world.status(name) == before[name] | {"observedGeneration": 3}
