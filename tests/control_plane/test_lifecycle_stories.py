"""What a user does with a job and sees of it, from its start to its end, on a real control plane."""

import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from finetune_api.exit_codes import Reason, exit_code
from finetune_api.names import PROGRESS_AUDIENCE, PROGRESS_PATH
from support.shared_world import attempts, delete_child, messages, patch, shared_world, writes_during
from support.waiting import await_that
from support.world import World, complete_message, failure_message

# Longer backoffs than in other tests: a restart must be seen while it waits.
FLAGS = (
    "--progress-url=https://operator.test",
    "--restart-backoff-s=600",
    "--restart-backoff-limit-s=600",
    "--pending-look-s=3",
)
WAITS, RAISED = "waits-too-long", "may-run-longer"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def world(cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with shared_world(cluster, "stories", tmp_path_factory.mktemp("operator"), *FLAGS) as found:
        # These wait for a deadline while the other stories are told.
        found.apply(WAITS, pendingDeadlineSeconds=10)
        found.kubelet.unschedulable(found.await_child(WAITS))
        found.apply(RAISED, activeDeadlineSeconds=6)
        found.run(RAISED)
        found.edit(RAISED, {"activeDeadlineSeconds": 3600})
        yield found


@pytest.fixture
def job() -> str:
    return f"job{next(_numbers)}-x"


def suspend(world: World, job: str, child: str) -> None:
    world.edit(job, {"suspend": True})
    await_that(lambda: world.kubelet.reap(child), "pods that end")
    world.await_phase("Suspended", job)


def post(world: World, child: str, events: list[dict[str, Any]]) -> int:
    """Post as rank 0 of a Job does, with a token that the API server made for its pod; return the answer's status."""
    pod = world.kubelet.pod(child)["metadata"]
    bound = {"kind": "Pod", "apiVersion": "v1", "name": pod["name"], "uid": pod["uid"]}
    spec = {"audiences": [PROGRESS_AUDIENCE], "expirationSeconds": 600, "boundObjectRef": bound}
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    made = world.api.post(f"{world.url('serviceaccounts', 'default')}/token", json=body).raise_for_status().json()
    url = world.operator.progress_url + PROGRESS_PATH.format(namespace=world.namespace, job=child)
    headers = {"Authorization": f"Bearer {made['status']['token']}"}
    return httpx.post(url, json=events, headers=headers, trust_env=False, timeout=10).status_code


def progress(step: int) -> dict[str, Any]:
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    data = {"step": step, "maxSteps": 300, "epoch": 1.5, "percent": step // 3, "loss": 0.42151234}
    return {"kind": "progress", "at": at, "data": data | {"samplesPerSecond": 12.0, "etaSeconds": 360.0}}


def test_a_suspended_job_frees_its_machines_and_goes_on_as_the_same_attempt(world: World, job: str):
    world.apply(job)
    child = world.run(job)
    first = {each["metadata"]["uid"] for each in world.kubelet.pods(child)}
    suspend(world, job, child)

    assert world.kubelet.pods(child) == []
    assert world.condition("Suspended", job)["status"] == "True"
    assert world.condition("Running", job)["reason"] == "Suspended"
    assert writes_during(world, job, 2) == []

    world.edit(job, {"suspend": False})
    world.run(job)
    assert world.condition("Suspended", job)["status"] == "False"
    assert {each["metadata"]["uid"] for each in world.kubelet.pods(child)}.isdisjoint(first)
    world.kubelet.finish(child, message=complete_message())
    status = world.await_phase("Complete", job)
    assert (status["attempt"], status.get("restarts", 0)) == (1, 0)
    assert attempts(world, job) == [1]


def test_a_job_that_is_suspended_from_the_start_makes_nothing_before_it_is_resumed(world: World, job: str):
    world.apply(job, suspend=True)
    world.await_phase("Suspended", job)

    assert world.children(job) == []
    world.edit(job, {"suspend": False})
    world.run(job)


def test_a_job_that_somebody_else_suspends_is_resumed_with_an_event(world: World, job: str):
    world.apply(job)
    child = world.run(job)
    patch(world, "jobs", child, {"spec": {"suspend": True}})
    await_that(lambda: world.kubelet.reap(child), "pods that end")
    world.run(job)

    assert any("suspended by somebody else" in each for each in messages(world, job, "Drift"))
    assert world.status(job)["attempt"] == 1


def test_a_job_that_runs_too_long_is_ended_and_the_time_of_a_suspension_is_not_counted(world: World, job: str):
    world.apply(job, activeDeadlineSeconds=3)
    child = world.run(job)
    suspend(world, job, child)
    time.sleep(3)
    assert world.status(job)["phase"] == "Suspended"
    world.edit(job, {"suspend": False})
    world.run(job)
    status = world.await_phase("Failed", job)

    assert status["failure"]["reason"] == "DeadlineExceeded"
    assert 3 <= status["activeSeconds"] < 60
    await_that(lambda: world.children(job) == [], "the end of the Job")


def test_a_deadline_that_is_raised_in_time_is_the_one_that_counts(world: World):
    started = datetime.fromisoformat(world.status(RAISED)["startTime"])
    await_that(lambda: (datetime.now(UTC) - started).total_seconds() > 8, "the first deadline")

    assert world.status(RAISED)["phase"] == "Running"
    world.kubelet.finish(world.child_name(RAISED), message=complete_message())
    world.await_phase("Complete", RAISED)


def test_pods_that_no_machine_takes_end_the_job_at_the_pending_deadline_with_the_cause(world: World):
    status = world.await_phase("Failed", WAITS)

    assert status["failure"]["reason"] == "PendingDeadlineExceeded"
    assert "Insufficient gpu" in status["failure"]["message"]
    assert attempts(world, WAITS) in ([], [1])


def test_a_finished_job_is_deleted_with_all_that_belongs_to_it_after_its_ttl(world: World, job: str):
    ends = {f"{job}-complete": 0, f"{job}-failed": 65}
    for name in ends:
        world.apply(name, ttlSecondsAfterFinished=2)
    for name, code in ends.items():
        world.kubelet.finish(world.run(name), exit_code=code, message=complete_message() if code == 0 else "")

    for name in ends:
        await_that(
            lambda name=name: world.api.get(world.url("ftj", name)).status_code == httpx.codes.NOT_FOUND, "its end"
        )
        await_that(lambda name=name: world.children(name) == [], "the garbage collector", 90)


def test_a_job_without_a_ttl_is_kept_until_one_is_set(world: World, job: str):
    world.apply(job)
    world.kubelet.finish(world.run(job), message=complete_message())
    world.await_phase("Complete", job)
    assert writes_during(world, job, 2) == []
    world.edit(job, {"ttlSecondsAfterFinished": 0})

    await_that(lambda: world.api.get(world.url("ftj", job)).status_code == httpx.codes.NOT_FOUND, "its end")


def test_silence_is_told_and_taken_back_by_the_next_post_and_costs_no_restart(world: World, job: str):
    world.apply(job)
    child = world.run(job)
    assert post(world, child, [progress(120)]) == httpx.codes.NO_CONTENT
    await_that(lambda: world.status(job).get("progress", {}).get("display") == "120/300 (40%)", "the progress")
    world.await_condition("ProgressStale", "True", "NoHeartbeat", job)
    assert writes_during(world, job, 2) == []
    assert world.status(job)["phase"] == "Running"
    # A sign of life without an event.
    assert post(world, child, []) == httpx.codes.NO_CONTENT
    world.await_condition("ProgressStale", "False", "Reporting", job)

    status = world.status(job)
    assert status["progress"]["loss"] == "0.421512"
    assert (status["attempt"], status.get("restarts", 0)) == (1, 0)


def test_a_trainer_that_never_posts_is_told_and_its_end_counts_all_the_same(world: World, job: str):
    world.apply(job)
    child = world.run(job)
    world.await_condition("ProgressStale", "True", "NoHeartbeat", job)
    world.kubelet.finish(child, message=complete_message())

    assert world.await_phase("Complete", job)["result"]["metrics"] == {"accuracy": "0.9"}


def test_the_posts_of_an_attempt_that_is_over_are_refused(world: World, job: str):
    world.apply(job)
    child = world.run(job)
    world.kubelet.finish(child, exit_code=exit_code(Reason.STORAGE_UNAVAILABLE))
    world.await_phase("Restarting", job)

    assert post(world, child, [progress(7)]) == httpx.codes.NOT_FOUND
    world.settle()
    assert "progress" not in world.status(job)


TABLE = """\
NAME           PHASE        PROGRESS        LOSS       REASON               RESTARTS
t-complete     Complete
t-failed       Failed                                  DataError
t-new
t-pending      Pending
t-restarting   Restarting                              StorageUnavailable   1
t-running      Running      120/300 (40%)   0.421512
t-suspended    Suspended
"""


def every_state(world: World) -> None:
    """Bring one job into each state that a user can see."""
    for state in ("complete", "failed", "pending", "restarting", "running", "suspended"):
        world.apply(f"t-{state}")
    world.kubelet.unschedulable(world.await_child("t-pending"))
    world.kubelet.finish(world.run("t-complete"), message=complete_message())
    world.kubelet.finish(world.run("t-failed"), exit_code=65, message=failure_message(Reason.DATA_ERROR))
    world.kubelet.finish(world.run("t-restarting"), exit_code=exit_code(Reason.STORAGE_UNAVAILABLE))
    assert post(world, world.run("t-running"), [progress(120)]) == httpx.codes.NO_CONTENT
    suspend(world, "t-suspended", world.run("t-suspended"))
    for state in ("complete", "failed", "pending", "restarting"):
        world.await_phase(state.title(), f"t-{state}")
    await_that(lambda: world.status("t-running").get("progress"), "the progress")
    world.operator.kill()
    world.apply("t-new")


def columns(table: str, left_out: set[str]) -> list[list[str]]:
    """Return the rows of a table of kubectl's without some columns, each cell without its padding."""
    head, *rows = table.splitlines()
    starts = [at for at, letter in enumerate(head) if letter != " " and (at == 0 or head[at - 1] == " ")]
    kept = [at for at, start in enumerate(starts) if head[start:].split()[0] not in left_out]
    ends = [*starts[1:], None]
    return [[row[starts[at] : ends[at]].strip() for at in kept] for row in (head, *rows)]


def test_kubectl_shows_every_state_and_waits_for_every_end(world: World, cluster):
    every_state(world)
    try:
        names = [f"t-{each}" for each in ("complete", "failed", "new", "pending", "restarting", "running", "suspended")]
        shown = cluster.kubectl("get", "ftj", *names, "-n", world.namespace)
        phases = cluster.kubectl(
            "get", "ftj", "-n", world.namespace, "--field-selector=status.phase=Suspended", "-o", "name"
        )
        wide = cluster.kubectl("get", "ftj", "t-complete", "-n", world.namespace, "-o", "wide")

        assert columns(shown, {"AGE", "ETA"}) == columns(TABLE, set())
        assert "finetunejob.finetune.dev/t-suspended" in phases.split()
        assert columns(wide, {"AGE", "ETA"})[1][-5:] == ["package://a_model", "lora", "", "", ""]

        def waits(name: str, condition: str) -> str:
            wanted = f"--for=condition={condition}"
            return cluster.kubectl("wait", f"ftj/{name}", "-n", world.namespace, wanted, "--timeout=10s")

        assert waits("t-complete", "Finished") == "finetunejob.finetune.dev/t-complete condition met\n"
        assert waits("t-complete", "Complete") == "finetunejob.finetune.dev/t-complete condition met\n"
        assert waits("t-failed", "Finished") == "finetunejob.finetune.dev/t-failed condition met\n"
        assert waits("t-failed", "Failed") == "finetunejob.finetune.dev/t-failed condition met\n"
        assert waits("t-running", "Running") == "finetunejob.finetune.dev/t-running condition met\n"
        assert waits("t-suspended", "Suspended") == "finetunejob.finetune.dev/t-suspended condition met\n"
        for name in ("t-running", "t-suspended", "t-pending", "t-restarting"):
            assert world.condition("Finished", name).get("status", "False") == "False"
    finally:
        world.operator.start()


def test_a_job_whose_gang_is_deleted_while_it_is_suspended_goes_on_when_it_is_resumed(world: World, job: str):
    world.apply(job)
    child = world.run(job)
    suspend(world, job, child)
    delete_child(world, child)
    world.settle()
    assert world.status(job)["phase"] == "Suspended"
    world.edit(job, {"suspend": False})
    world.run(job)

    assert world.status(job).get("restarts", 0) == 0
