"""What goes wrong on a node, and what the user sees of it."""

import os
import signal
import time
from pathlib import Path

import pytest

from node.node import NAME
from node.submitted import TRAINING, processes
from node.world import SYSTEM, World
from support.waiting import await_that

pytestmark = pytest.mark.e2e


def test_a_killed_kubelet_leaves_the_training_alone(world: World):
    job = world.submit("kubelet", training__maxSteps=60)
    job.await_step(1)
    before = job.rank_pid()

    world.node.kubelet.kill()
    time.sleep(5)
    os.kill(before, 0)
    world.node.kubelet.start()
    status = job.complete()

    assert status.get("restarts", 0) == 0
    assert len(job.jobs()) == 1


def test_a_drained_node_costs_no_restart_of_the_users(world: World):
    job = world.submit("drained", training__maxSteps=60)
    job.await_checkpoint()

    # The operator goes too, and comes back when there is a node for it again.
    world.kubectl("drain", NAME, "--delete-emptydir-data", "--force", "--timeout=55s")
    world.kubectl("uncordon", NAME)
    status = job.complete()

    assert status["attempt"] == 2, job.evidence()
    assert status.get("restarts", 0) == 0, job.evidence()


def test_a_job_deleted_in_the_middle_leaves_nothing(world: World):
    job = world.submit("gone", workers__nodes=2, training__maxSteps=2000)
    job.await_step(1)
    uids = [pod["metadata"]["uid"] for pod in job.pods()]

    job.delete()

    for kind in ("services", "persistentvolumeclaims"):
        left = [each["metadata"]["name"] for each in world.list(kind, "finetune.dev/job=gone")]
        await_that(lambda kind=kind: not world.list(kind, "finetune.dev/job=gone"), f"no {kind}: {left}")
    for uid in uids:
        await_that(lambda uid=uid: not processes(uid, b""), "an end of its processes")


def test_deleting_the_operator_during_training_and_making_it_anew_changes_nothing(world: World):
    job = world.submit("rollout", training__maxSteps=60)
    job.await_step(1)

    world.kubectl("rollout", "restart", "deployment/finetune-operator", "--namespace", SYSTEM)
    world.kubectl("rollout", "status", "deployment/finetune-operator", "--namespace", SYSTEM, "--timeout=55s")
    status = job.complete()

    assert len(job.jobs()) == 1
    assert status.get("restarts", 0) == 0


def test_every_weight_of_a_model_is_trained_when_the_method_is_full(world: World):
    job = world.submit("full", method={"type": "full"}, training__learningRate=0.0001, output__formats=["full"])

    status = job.complete()

    assert status["result"]["artifact"]["formats"] == ["full"]
    assert list((world.output("full")).rglob("*.safetensors"))


def test_a_container_over_its_memory_limit_is_told_as_such_and_tried_with_half_the_batch(world: World):
    job = world.submit(
        "memory",
        training__batchSize=128,
        training__maxSteps=4,
        workers__resources={"requests": {"cpu": "100m"}, "limits": {"memory": "700Mi"}},
        restarts={"limit": 8},
    )

    status = job.await_phase("Restarting", "Complete", "Failed")

    assert status["failure"]["reason"] == "HostOutOfMemory", job.evidence()
    assert "half of" in status["resolved"]["microBatchLimit"]
    # It would be halved again and again, and slow down what follows.
    job.delete()


def test_a_suspension_is_no_failure_even_when_the_trainer_exits_with_a_code_of_the_policy(world: World):
    """The trainer saves and exits with 75 when it is asked to stop, and a rule of the Job's policy names 75."""
    job = world.submit("code", training__maxSteps=2000)
    job.await_step(3)
    pid = job.rank_pid()

    world.kubectl("patch", "ftj", "code", "-n", TRAINING, "--type=merge", "-p", '{"spec": {"suspend": true}}')
    status = job.await_phase("Suspended", "Failed", "Restarting")

    assert status["phase"] == "Suspended", job.evidence()
    await_that(lambda: not Path(f"/proc/{pid}").exists(), "the trainer's end", 90)
    await_that(lambda: not job.pods(), "an end of its pods", 90)
    (batch,) = job.jobs()
    assert {each["type"] for each in batch["status"]["conditions"]} == {"Suspended"}
    job.delete()


def test_a_signal_to_the_launcher_is_not_a_users_fault(world: World):
    job = world.submit("launcher", training__maxSteps=40)
    job.await_checkpoint()
    (launcher,) = processes(job.pods()[0]["metadata"]["uid"], b"finetune_trainer\0launch\0")

    os.kill(launcher, signal.SIGKILL)
    status = job.complete()

    assert status["restarts"] == 1, job.evidence()
