"""What a user does from a terminal: `finetune status, logs, why, suspend, resume, submit` on a real control plane."""

import itertools
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api import names
from finetune_api.exit_codes import Reason, exit_code
from finetune_api.status import FineTuneJobStatus
from support.shared_world import shared_world
from support.user import User
from support.waiting import await_that
from support.world import SPEC, World, complete_message, failure_message

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def world(cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with shared_world(cluster, "user", tmp_path_factory.mktemp("operator"), "--image-pull-s=600") as found:
        yield found


@pytest.fixture(scope="module")
def user(cluster, world: World) -> User:
    return User(cluster.kubeconfig, world.namespace)


@pytest.fixture
def job() -> str:
    return f"job{next(_numbers)}-x"


def manifest(folder: Path, name: str, **spec: Any) -> Path:
    document = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": name}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document | {"spec": SPEC | spec}))
    return path


def run_submitted(world: World, name: str) -> str:
    """Let the pods of a job start that a command is about to submit; return the Job's name."""
    await_that(lambda: world.api.get(world.url("ftj", name)).is_success, f"the job {name}")
    return world.run(name)


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """Return the next line of a command's output that has a text."""
    assert process.stdout is not None
    return next(line for line in process.stdout if text in line)


def test_submit_applies_what_the_manifest_says_and_owns_no_default(world: World, user: User, job: str, tmp_path: Path):
    said = user.says("submit", manifest(tmp_path, job), "--set", "training.epochs=2")

    assert said == f"finetunejob.finetune.dev/{job} serverside-applied\n"
    stored = world.job(job)
    assert (stored["spec"]["training"]["epochs"], stored["spec"]["checkpoint"]["every"]) == (2, "5m")
    owned = next(each for each in stored["metadata"]["managedFields"] if each["manager"] == "finetune")
    assert owned["operation"] == "Apply"
    assert "f:checkpoint" not in owned["fieldsV1"]["f:spec"]
    user.says("submit", manifest(tmp_path, job), "--set", "training.epochs=2")
    assert world.job(job)["metadata"]["generation"] == 1


def test_a_manifest_that_is_wrong_or_no_clusters_is_refused_with_every_problem(
    user: User, world: World, tmp_path: Path
):
    wrong = manifest(tmp_path, "wrong", method={"rank": 8, "type": "full"}, output={"uri": "pvc://models/x"}, extra=1)
    local = manifest(tmp_path, "local", data={"train": {"uri": "file://train.csv"}}, output={})
    told = user.refused("submit", wrong, "--wait", code=2)
    assert "2 problems" in told
    assert "spec.method.rank: only for method.type lora or adalora, found 8. Remove it" in told
    told = user.refused("submit", local, code=2)
    assert "spec.data.train.uri: file:// is a folder of your machine" in told
    assert "spec.output.uri: required on a cluster" in told
    names_made = {each["metadata"]["name"] for each in world.api.get(world.url("ftj")).json()["items"]}
    assert names_made.isdisjoint({"wrong", "local"})


def test_an_edit_that_the_api_server_refuses_is_told_as_an_invalid_manifest(
    world: World, user: User, job: str, tmp_path: Path
):
    user.says("submit", manifest(tmp_path, job))
    world.run(job)
    told = user.refused("submit", manifest(tmp_path, job), "--set", "model.uri=package://other", code=2)

    assert told.startswith("Error from server (Invalid): ")
    assert "model" in told


def test_a_waiting_submit_shows_the_run_and_ends_with_the_status_and_zero(
    world: World, user: User, job: str, tmp_path: Path
):
    with user.begins("submit", manifest(tmp_path, job), "--wait", "-o", "jsonl") as process:
        child = run_submitted(world, job)
        assert json.loads(line_with(process, '"Running"'))["kind"] == "phase"
        world.kubelet.finish(child, message=complete_message(accuracy=0.9))
        *_, last = process.communicate(timeout=60)[0].splitlines()

    status = FineTuneJobStatus.model_validate_json(last)
    assert process.returncode == 0
    assert (status.phase, status.result and status.result.metrics) == ("Complete", {"accuracy": "0.9"})
    assert FineTuneJobStatus.model_validate_json(json.dumps(world.status(job))) == status
    # What is finished is told at once, and not run again.
    assert "\nComplete\n  accuracy: 0.9000\n" in user.says("submit", manifest(tmp_path, job), "--wait")


def test_a_waiting_submit_tells_restarts_and_ends_with_reason_remedy_and_one(
    world: World, user: User, job: str, tmp_path: Path
):
    with user.begins("submit", manifest(tmp_path, job), "--wait") as process:
        lost = Reason.STORAGE_UNAVAILABLE
        world.kubelet.finish(
            run_submitted(world, job), exit_code=exit_code(lost), message=failure_message(lost, "disk full")
        )
        child = world.run(job, attempt=2)
        world.kubelet.finish(child, exit_code=65, message=failure_message(Reason.DATA_ERROR, "train.csv, row 7"))
        shown = process.communicate(timeout=60)[0]

    assert process.returncode == 1
    assert "warning    attempt 2 follows: StorageUnavailable: disk full" in shown
    assert "\nFailed: DataError: train.csv, row 7" in shown
    assert shown.endswith("\n  mend it\n")


def test_ctrl_c_while_waiting_leaves_the_job_running_and_says_how_to_go_on(
    world: World, user: User, job: str, tmp_path: Path
):
    with user.begins("submit", manifest(tmp_path, job), "--wait", "-o", "jsonl") as process:
        run_submitted(world, job)
        line_with(process, '"Running"')
        process.send_signal(signal.SIGINT)
        shown, told = process.communicate(timeout=60)

    assert process.returncode == 130
    assert FineTuneJobStatus.model_validate_json(shown.splitlines()[-1]).phase == "Running"
    assert f"finetune status {job} --watch" in told
    assert f"finetune suspend {job}" in told
    assert world.status(job)["phase"] == "Running"
    assert world.job(job)["spec"].get("suspend") is not True


def test_waiting_ends_at_its_timeout_and_when_the_job_is_deleted(world: World, user: User, job: str, tmp_path: Path):
    file = manifest(tmp_path, job)
    assert f"timed out waiting for finetunejob.finetune.dev/{job}" in user.refused(
        "submit", file, "--wait", "--timeout", "1s"
    )
    with user.begins("submit", file, "--wait", "-o", "jsonl") as process:
        run_submitted(world, job)
        line_with(process, '"Running"')
        world.delete(job)
        told = process.communicate(timeout=60)[1]

    assert process.returncode == 1
    assert f"{job}: a job that exists until its end, found that it was deleted." in told


def test_an_outage_of_the_api_server_is_waited_out(world: World, cluster, job: str, tmp_path: Path):
    config = json.loads(cluster.kubeconfig.read_text())
    config["clusters"][0]["cluster"] = {"server": world.proxy.url}
    config["contexts"][0]["context"]["namespace"] = world.namespace
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps(config))
    with User(kubeconfig, "").begins("submit", manifest(tmp_path, job), "--wait") as process:
        child = run_submitted(world, job)
        line_with(process, "Running")
        world.proxy.down()
        assert process.stderr is not None
        assert "does not answer, trying again" in process.stderr.readline()
        world.proxy.heal()
        world.kubelet.finish(child, message=complete_message())
        process.communicate(timeout=60)

    assert process.returncode == 0


def test_suspend_and_resume_say_what_follows_and_do_it(world: World, user: User, job: str):
    world.apply(job)
    child = world.run(job)
    said = user.says("suspend", f"ftj/{job}")
    await_that(lambda: world.kubelet.reap(child), "pods that end")
    world.await_phase("Suspended", job)

    assert said.startswith(f"finetunejob.finetune.dev/{job} suspended\nIts pods have 120 s to save a checkpoint")
    assert "step 0, since storage.ephemeral keeps no checkpoint" in said
    assert user.says("suspend", job) == f"finetunejob.finetune.dev/{job} already suspended\n"
    assert user.says("resume", job).startswith(f"finetunejob.finetune.dev/{job} resumed\n")
    world.kubelet.finish(world.run(job), message=complete_message())
    world.await_phase("Complete", job)
    assert "only an unfinished job can be suspended, found phase Complete" in user.refused("suspend", job)
    assert world.job(job)["spec"]["suspend"] is False
