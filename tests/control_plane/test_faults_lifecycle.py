"""FAULTS 27 to 33: quotas, machines that do not come, namespaces and names that go while they are used."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.faults import Match, to
from support.shared_world import attempts, messages, patch, shared_world, writes_about, writes_during
from support.waiting import await_that
from support.world import World, complete_message

# The garbage collector looks for new kinds, such as ours, every 30 s.
COLLECTED_S = 90.0
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def world(cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    # Long enough for a test to say what the pods wait for before the operator looks; it looks again after a minute.
    flags = ("--pending-look-s=3", "--image-pull-s=6")
    with shared_world(cluster, "faults-lifecycle", tmp_path_factory.mktemp("operator"), *flags) as found:
        yield found


@pytest.fixture
def job() -> str:
    return f"job{next(_numbers)}-x"


@pytest.fixture
def own_world(cluster, namespace: str, tmp_path: Path) -> Iterator[World]:
    """A namespace that the test may ruin."""
    with World(cluster, namespace, tmp_path) as found:
        found.operator.start()
        yield found


def create(world: World, plural: str, body: dict[str, Any]) -> None:
    world.api.post(world.url(plural), json=body).raise_for_status()


def is_complete(world: World, child: str) -> bool:
    conditions = world.api.get(world.url("jobs", child)).raise_for_status().json()["status"].get("conditions", [])
    return any(each["type"] == "Complete" for each in conditions)


def owners(world: World, name: str) -> list[str]:
    return [each["metadata"]["ownerReferences"][0]["uid"] for each in world.children(name)]


def test_f27_a_quota_that_refuses_the_job_is_told_and_it_starts_by_itself_once_there_is_room(own_world: World):
    world = own_world
    create(world, "resourcequotas", {"metadata": {"name": "none"}, "spec": {"hard": {"count/jobs.batch": "0"}}})
    quota = world.url("resourcequotas", "none")
    await_that(lambda: world.api.get(quota).json().get("status", {}).get("hard"), "a quota in force")
    world.apply()
    condition = world.await_condition("Running", "False", "QuotaExceeded")

    assert "exceeded quota: none" in condition["message"]
    assert world.status()["phase"] == "Pending"
    before = len(world.proxy.writes)
    time.sleep(4)
    written = world.proxy.writes[before:]
    # The same words are written once, and the Job is posted again every 2 s at most.
    assert [each.resource for each in written if each.resource != "jobs"] == []
    assert 1 <= len(written) <= 5

    patch(world, "resourcequotas", "none", {"spec": {"hard": {"count/jobs.batch": "5"}}})
    world.run()
    assert world.status().get("restarts", 0) == 0


def test_f27_a_limit_that_refuses_the_pods_is_told_and_they_start_by_themselves_once_there_is_room(own_world: World):
    world = own_world
    limits = [{"type": "Container", "max": {"memory": "1Mi"}}]
    create(world, "limitranges", {"metadata": {"name": "tiny"}, "spec": {"limits": limits}})
    world.apply(workers={"resources": {"limits": {"memory": "2Gi"}}})
    condition = world.await_condition("Running", "False", "Refused")

    assert "maximum memory usage per Container is 1Mi" in condition["message"]
    world.settle()
    assert world.writes_during(1) == []
    world.api.delete(world.url("limitranges", "tiny")).raise_for_status()
    world.run()


def test_f27_a_quota_that_refuses_the_pods_is_told_with_its_name(own_world: World):
    world = own_world
    create(world, "resourcequotas", {"metadata": {"name": "no-pods"}, "spec": {"hard": {"pods": "0"}}})
    quota = world.url("resourcequotas", "no-pods")
    await_that(lambda: world.api.get(quota).json().get("status", {}).get("hard"), "a quota in force")
    world.apply()
    condition = world.await_condition("Running", "False", "QuotaExceeded")

    assert "exceeded quota: no-pods" in condition["message"]
    patch(world, "resourcequotas", "no-pods", {"spec": {"hard": {"pods": "9"}}})
    world.run()


def test_f28_a_job_that_no_node_can_take_is_told_once_and_costs_no_writes(world: World, job: str):
    world.apply(job, pendingDeadlineSeconds=86400)
    child = world.await_child(job)
    world.kubelet.unschedulable(child)
    condition = world.await_condition("Running", "False", "Unschedulable", job)
    world.settle()

    assert "Insufficient gpu" in condition["message"]
    assert writes_during(world, job, 6) == []
    world.run(job)
    assert world.status(job)["attempt"] == 1


def test_f29_an_image_that_cannot_be_pulled_ends_the_job_after_a_while_and_never_restarts(world: World, job: str):
    world.apply(job)
    child = world.await_child(job)
    world.kubelet.image_pull_backoff(child)
    condition = world.await_condition("Running", "False", "ImagePullFailed", job)
    assert world.status(job)["phase"] == "Pending"
    status = world.await_phase("Failed", job)
    await_that(lambda: attempts(world, job) == [], "the end of the Job")
    world.settle()

    assert "not found" in condition["message"]
    assert status["failure"]["reason"] == "ImagePullFailed"
    assert status["failure"]["remedy"]
    assert status.get("restarts", 0) == 0
    assert sum(to("jobs", "POST")(each) for each in writes_about(world, job)) == 1


def test_f30_in_a_namespace_that_is_being_deleted_it_falls_silent(own_world: World):
    world = own_world
    namespace = f"/api/v1/namespaces/{world.namespace}"
    # Something that stays keeps the namespace terminating; Jobs in a queue have no pods for it to wait for.
    create(world, "configmaps", {"metadata": {"name": "stays", "finalizers": ["example.com/stays"]}})
    queue = {"queue": "team-a"}
    world.apply("queued", scheduling=queue)
    world.await_child("queued")
    # It does not hear of the end of the FineTuneJobs, and posts a Job when the namespace is terminating.
    world.settle()
    world.proxy.stall_watches(to("finetunejobs", watch=True))
    world.proxy.before_write(1, lambda: end_of(world, namespace), to("jobs", "POST"), lose=False)
    world.operator.kill()
    world.apply("late", scheduling=queue)
    before = len(world.proxy.writes)
    world.operator.start()
    await_that(lambda: world.api.get(world.url("ftj")).json()["items"] == [], "the end of its objects", COLLECTED_S)
    world.settle(2)
    lines = len(world.operator.log.read_text().splitlines())

    # Once for each FineTuneJob, whose end comes after that of its Job.
    assert [each.status for each in world.proxy.requests if to("jobs", "POST")(each)] in ([201, 403], [201, 403, 403])
    # There is nobody to tell.
    assert {each.resource for each in world.proxy.writes[before:]} == {"jobs"}
    assert world.writes_during(3) == []
    log = world.operator.log.read_text()
    assert len(log.splitlines()) - lines <= 1
    assert "Traceback" not in log
    patch(world, "configmaps", "stays", {"metadata": {"finalizers": None}})


def end_of(world: World, namespace: str) -> None:
    world.api.delete(namespace).raise_for_status()
    await_that(lambda: world.api.get(namespace).json()["status"]["phase"] == "Terminating", "a terminating namespace")


def test_f31_a_job_deleted_while_its_children_are_made_leaves_nothing_over(world: World, job: str):
    hooks = {f"{job}-before": world.proxy.before_write, f"{job}-after": world.proxy.after_write}
    for name, hook in hooks.items():
        hook(1, lambda name=name: world.delete(name), posts(name), lose=False)
        world.apply(name)
    for name in hooks:
        await_that(lambda name=name: any(map(posts(name), world.proxy.requests)), "a Job")
        await_that(
            lambda name=name: world.api.get(world.url("ftj", name)).status_code == httpx.codes.NOT_FOUND, "its end"
        )
        await_that(lambda name=name: world.children(name) == [], "the garbage collector", COLLECTED_S)
    world.settle()

    for name in hooks:
        assert sum(map(posts(name), world.proxy.requests)) == 1
        assert world.children(name) == []


def posts(name: str) -> Match:
    """Return a predicate of the creation of a Job of one FineTuneJob."""
    return lambda each: to("jobs", "POST")(each) and f'"{name}"'.encode() in each.body


def test_f32_a_job_made_again_under_the_same_name_has_nothing_of_the_first_one(world: World, job: str):
    first = world.apply(job)["metadata"]["uid"]
    old = world.run(job)
    # It hears of the gang's end when the name is another's already, and of that later still.
    world.proxy.delay_watches(1.5, to("jobs", watch=True))
    world.proxy.delay_watches(4.0, to("finetunejobs", watch=True))
    world.kubelet.finish(old, message=complete_message())
    await_that(lambda: is_complete(world, old), "the end of the first one's gang")
    world.delete(job)
    second = world.apply(job, restarts={"limit": 3})["metadata"]["uid"]
    world.run(job)
    world.proxy.heal()
    await_that(lambda: owners(world, job) == [second], "the end of the first one's Job", COLLECTED_S)
    status = world.status(job)
    patches = [each.status for each in world.proxy.requests if to("finetunejobs/status", "PATCH", job)(each)]

    assert first != second
    assert 409 in patches
    assert old not in {each["metadata"]["name"] for each in world.children(job)}
    assert status["phase"] == "Running"
    assert status["attempt"] == 1
    assert {"completionTime", "result", "failure"} & status.keys() == set()


def test_f33_a_job_that_somebody_elses_finalizer_holds_is_left_alone(world: World, job: str):
    world.apply(job)
    child = world.run(job)
    patch(world, "ftj", job, {"metadata": {"finalizers": ["example.com/stays"]}})
    world.settle()
    before = len(writes_about(world, job))
    world.delete(job)
    world.kubelet.finish(child, exit_code=77)
    world.settle()

    assert writes_during(world, job, 3) == []
    assert len(writes_about(world, job)) == before
    world.operator.restart()
    world.settle(2)
    assert len(writes_about(world, job)) == before

    patch(world, "ftj", job, {"metadata": {"finalizers": None}})
    await_that(lambda: world.children(job) == [], "the garbage collector", COLLECTED_S)
    assert messages(world, job, "StorageUnavailable") == []
