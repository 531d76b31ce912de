"""What a user does and sees, on a real node; the tests that CI runs."""

import json
import os
import signal

from node.submitted import TRAINING
from node.world import World


def test_two_pods_train_one_adapter_over_the_pod_network(world: World):
    job = world.submit("gang", workers__nodes=2, training__maxSteps=20)

    job.await_phase("Running")
    pods = job.pods()
    status = job.complete()

    assert len({pod["status"]["podIP"] for pod in pods}) == 2
    assert status["attempt"] == 1
    assert status["progress"]["step"] == 20
    assert float(status["result"]["metrics"]["test/accuracy"]) > 0.5
    assert status["result"]["artifact"]["formats"] == ["adapter"]
    files = json.loads((world.output("gang") / "manifest.json").read_text())
    assert files, "the artifact's manifest lists nothing"


def test_a_suspended_job_frees_its_pods_and_goes_on_from_its_checkpoint(world: World):
    job = world.submit("pause", training__maxSteps=80)
    job.await_checkpoint()

    world.kubectl("patch", "ftj", "pause", "-n", TRAINING, "--type=merge", "-p", '{"spec": {"suspend": true}}')
    suspended = job.await_phase("Suspended", "Failed")
    assert suspended["phase"] == "Suspended", job.evidence()
    (batch,) = job.jobs()
    assert not [each for each in batch["status"].get("conditions", []) if each["type"].startswith("Fail")], batch
    job.await_that(lambda: not job.pods(), "no pods")
    saved = job.status["checkpoint"]["step"]

    world.kubectl("patch", "ftj", "pause", "-n", TRAINING, "--type=merge", "-p", '{"spec": {"suspend": false}}')
    status = job.complete()

    assert (status["attempt"], status.get("restarts", 0)) == (1, 0)
    assert 0 < saved < 80
    result = job.result()
    assert (result.resumed_from, result.step) == (saved, 80), job.evidence()
    told = job.events()
    (again,) = (number for number, event in enumerate(told) if event.data.get("name") == "resumed")
    before, after = (
        [event.data["step"] for event in part if event.kind == "progress"] for part in (told[:again], told[again:])
    )
    # The checkpoint was made on the way out: no step is done twice.
    assert before[-1] == saved < after[0]


def test_a_killed_rank_costs_one_restart_and_no_more_than_the_steps_since_the_checkpoint(world: World):
    job = world.submit("killed", workers__nodes=2, training__maxSteps=30)
    job.await_checkpoint()

    os.kill(job.rank_pid(1), signal.SIGKILL)
    status = job.complete()

    assert status["restarts"] == 1, job.evidence()
    assert status["progress"]["step"] == 30


def test_a_killed_operator_comes_back_and_starts_nothing_twice(world: World):
    job = world.submit("orphan", training__maxSteps=60)
    job.await_step(1)

    os.kill(world.operator_pid(), signal.SIGKILL)
    status = job.complete()

    assert len(job.jobs()) == 1
    assert status.get("restarts", 0) == 0
    (pod,) = world.operator_pods()
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 1


def test_an_image_that_is_not_there_fails_the_job_with_its_name_and_a_remedy(world: World):
    job = world.submit("typo", pod__image="nowhere.invalid/trainer:1")

    status = job.await_phase("Failed")

    assert status["failure"]["reason"] == "ImagePullFailed"
    assert "nowhere.invalid/trainer:1" in status["failure"]["message"]
    assert status["failure"]["remedy"]
    assert len(job.jobs()) <= 1
