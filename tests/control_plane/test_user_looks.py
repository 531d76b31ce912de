"""What a user looks at from a terminal: `finetune status`, `why` and `logs` on a real control plane."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.exit_codes import Reason, exit_code
from finetune_api.names import GROUP
from support.accounts import request_token
from support.kubelet_logs import KubeletLogs
from support.shared_world import messages, shared_world
from support.user import User
from support.waiting import await_that
from support.world import World, complete_message, failure_message

_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def world(cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with shared_world(cluster, "looks", tmp_path_factory.mktemp("operator"), "--image-pull-s=600") as found:
        yield found


@pytest.fixture(scope="module")
def user(cluster, world: World) -> User:
    return User(cluster.kubeconfig, world.namespace)


@pytest.fixture
def job() -> str:
    return f"job{next(_numbers)}-x"


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[KubeletLogs]:
    with KubeletLogs(tmp_path) as found:
        yield found


def kubeconfig_of(cluster: Any, folder: Path, **context: Any) -> Path:
    """Return a kubeconfig like the cluster's with a changed context; `token` is another account's."""
    config = json.loads(cluster.kubeconfig.read_text())
    config["users"][0]["user"]["token"] = context.pop("token", config["users"][0]["user"]["token"])
    config["contexts"][0]["context"] |= context
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


def test_namespace_and_context_are_chosen_as_kubectl_chooses_them(
    world: World, cluster, user: User, job: str, tmp_path: Path
):
    world.apply(job)
    mine = kubeconfig_of(cluster, tmp_path, namespace=world.namespace)

    assert f"finetunejob.finetune.dev/{job}\n" in User(mine, "").says("status", "-o", "name")
    assert user.says("status", f"finetunejob.finetune.dev/{job}", "-o", "name") == f"finetunejob.finetune.dev/{job}\n"
    everywhere = User(cluster.kubeconfig, "").says("status", "-A")
    assert everywhere.split()[:2] == ["NAMESPACE", "NAME"]
    assert [world.namespace, job] in [line.split()[:2] for line in everywhere.splitlines()]
    assert "--context: one of test in" in User(mine, "").refused("status", "--context", "nope")
    assert User(cluster.kubeconfig, "empty").finetune("status").stderr == "No resources found in empty namespace.\n"
    both = kubeconfig_of(cluster, tmp_path, namespace="empty")
    assert (
        User(Path(f"{mine.parent / 'absent'}:{both}"), "").finetune("status").stderr.endswith("in empty namespace.\n")
    )


def test_kubectl_finetune_is_the_same_command(world: World, cluster, user: User, job: str):
    world.apply(job)
    command = [cluster.binary, "kubectl", "finetune", "status", job, "-o", "name", "-n", world.namespace]
    path = {"PATH": str(Path(sys.executable).parent), "KUBECONFIG": str(cluster.kubeconfig)}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=path).stdout

    assert shown == user.says("status", job, "-o", "name")


def test_objects_are_printed_as_kubectl_prints_them(world: World, cluster, user: User, job: str):
    world.apply(job)
    world.run(job)
    world.settle()
    theirs = cluster.kubectl("get", "ftj", job, "-n", world.namespace, "-o", "json")

    assert user.says("status", job, "-o", "json") == theirs
    assert yaml.safe_load(user.says("status", job, "-o", "yaml")) == yaml.safe_load(theirs)
    listed = json.loads(user.says("status", "-o", "json"))
    assert listed == json.loads(cluster.kubectl("get", "ftj", "-n", world.namespace, "-o", "json"))


def test_errors_are_kubectls_with_a_remedy(user: User, cluster, tmp_path: Path, world: World):
    absent = user.refused("why", "absent")

    assert absent.startswith(
        'Error from server (NotFound): finetunejobs.finetune.dev "absent" not found. See the names'
    )
    assert "NAME: the name of a FineTuneJob, found 'pod/x'" in user.refused("suspend", "pod/x")
    wrong = User(kubeconfig_of(cluster, tmp_path, token="nobody"), world.namespace)
    assert wrong.refused("status").startswith("Error from server (Unauthorized): ")
    config = json.loads(cluster.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    wrong.kubeconfig.write_text(json.dumps(config))
    assert wrong.refused("status").startswith("Unable to connect to the server: https://127.0.0.1:1")


def test_watching_shows_a_row_for_every_change(world: World, user: User, job: str):
    world.apply(job)
    with user.begins("status", job, "-w") as process:
        assert process.stdout is not None
        assert process.stdout.readline().split()[:2] == ["NAME", "PHASE"]
        assert process.stdout.readline().split()[0] == job
        child = world.run(job)
        assert next(line for line in process.stdout if "Running" in line).split()[:2] == [job, "Running"]
        world.kubelet.finish(child, message=complete_message())
        assert next(line for line in process.stdout if "Running" not in line).split()[:2] == [job, "Complete"]


def test_why_says_what_a_waiting_job_waits_for_before_the_operator_does(world: World, user: User, job: str):
    world.apply(job, pendingDeadlineSeconds=86400)
    child = world.await_child(job)
    world.kubelet.image_pull_backoff(child)
    told = user.says("why", job)

    assert told.splitlines()[0] == "Pending: ImagePullFailed"
    assert "The image does not exist: correct name and tag in spec.pod.image." in told
    assert json.loads(user.says("why", job, "-o", "json"))["reason"] == "ImagePullFailed"
    world.run(job)
    assert user.says("why", job).splitlines()[0] == "Running"


def test_why_explains_an_end_that_the_operator_has_not_told(world: World, user: User, job: str):
    world.apply(job)
    child = world.run(job)
    world.operator.pause()
    try:
        world.kubelet.finish(child, exit_code=65, message=failure_message(Reason.DATA_ERROR, "train.csv, row 7"))
        await_that(lambda: "DataError" in user.says("why", job).splitlines()[0], "the end")
        told = user.says("why", job)
    finally:
        world.operator.resume()

    assert "the operator has not told yet what follows" in told
    assert "termination message: Failed DataError" in told
    assert told.endswith("Remedy:\n  mend it\n")


def test_why_shows_events_and_names_what_the_user_may_not_read(
    world: World, cluster, user: User, job: str, tmp_path: Path
):
    world.apply(job)
    world.kubelet.finish(world.run(job), exit_code=exit_code(Reason.STORAGE_UNAVAILABLE))
    world.run(job, attempt=2)
    await_that(lambda: messages(world, job, "StorageUnavailable"), "the event")
    assert "event StorageUnavailable, " in user.says("why", job)
    account, role = f"viewer-{world.namespace}", {"apiGroups": [GROUP], "resources": ["finetunejobs"], "verbs": ["get"]}
    world.api.post(world.url("serviceaccounts"), json={"metadata": {"name": account}}).raise_for_status()
    rules = {"metadata": {"name": account}, "rules": [role]}
    world.api.post(f"{_RBAC}/namespaces/{world.namespace}/roles", json=rules).raise_for_status()
    subject = {"kind": "ServiceAccount", "name": account, "namespace": world.namespace}
    binding = {"metadata": {"name": account}, "subjects": [subject]}
    binding["roleRef"] = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account}
    world.api.post(f"{_RBAC}/namespaces/{world.namespace}/rolebindings", json=binding).raise_for_status()
    viewer = User(
        kubeconfig_of(cluster, tmp_path, token=request_token(world.api, world.namespace, account)), world.namespace
    )
    await_that(lambda: viewer.finetune("why", job).returncode == 0, "the right to look")

    told = viewer.says("why", job)
    assert told.splitlines()[0] == "Running"
    assert "left out: pods: not allowed to read" in told
    assert viewer.refused("suspend", job).startswith("Error from server (Forbidden): ")


def test_logs_are_those_of_the_rank_and_of_the_attempt_that_are_asked_for(
    world: World, user: User, logs: KubeletLogs, job: str
):
    world.apply(job, workers={"nodes": 2, "processesPerNode": 2}, storage={"claimName": "work"})
    child = world.run(job)
    for index in (0, 1):
        logs.serve(world.api, world.kubelet.pod(child, index), f"attempt 1, node {index}\n".encode())
    assert user.says("logs", job) == user.says("logs", job, "--rank", "1") == "attempt 1, node 0\n"
    assert user.says("logs", job, "--rank=2") == "attempt 1, node 1\n"
    assert "--rank: from 0 to 3, found 4" in user.refused("logs", job, "--rank", "4")
    assert "--previous: an attempt before this one, found none" in user.refused("logs", job, "--previous")

    world.kubelet.finish(child, 0, exit_code=exit_code(Reason.STORAGE_UNAVAILABLE))
    await_that(lambda: world.kubelet.reap(child), "the end of the other node")
    again = world.run(job, attempt=2)
    logs.serve(world.api, world.kubelet.pod(again), b"attempt 2\n")
    assert user.says("logs", job) == "attempt 2\n"
    assert user.says("logs", job, "--previous") == "attempt 1, node 0\n"


def test_following_waits_for_the_trainer_and_goes_on_until_its_end(
    world: World, user: User, logs: KubeletLogs, job: str
):
    world.apply(job, pendingDeadlineSeconds=86400)
    child = world.await_child(job)
    world.kubelet.image_pull_backoff(child)
    name = logs.serve(world.api, world.kubelet.pod(child), b"first\n", ended=False)
    with user.begins("logs", job, "-f") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "waiting: the trainer has not started: pod" in process.stderr.readline()
        world.run(job)
        assert process.stdout.readline() == "first\n"
        logs.logs[name].append(b"second\n")
        assert process.stdout.readline() == "second\n"
        logs.ended.add(name)
        assert process.wait(60) == 0


def test_logs_of_a_pod_that_is_gone_tell_how_it_ended(world: World, user: User, job: str):
    world.apply(job)
    child = world.await_child(job)
    world.kubelet.pod(child)
    assert "the trainer has not started" in user.refused("logs", job)
    world.kubelet.finish(world.run(job), exit_code=65, message=failure_message(Reason.DATA_ERROR, "row 7"))
    world.await_phase("Failed", job)
    world.kubelet.delete(child)
    await_that(lambda: world.kubelet.pods(child) == [], "the pod's end")

    told = user.refused("logs", job)
    assert "the pod is gone, and its output with it; it ended with DataError: row 7" in told
    assert f"See: finetune why {job}" in told
