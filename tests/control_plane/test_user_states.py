"""Every state of a job as a user sees it: `kubectl get`, `kubectl wait`, `finetune status`, `finetune why`.

What is printed is written down in `tests/golden/commands/`, with ages, times and drawn names masked.
"""

import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from finetune_api.exit_codes import Reason, exit_code
from finetune_api.names import PROGRESS_AUDIENCE, PROGRESS_PATH
from finetune_api.result import ArtifactRef, Result
from support.kueue import serve_workloads, tell_admission
from support.shared_world import shared_world
from support.user import User
from support.waiting import await_that
from support.world import World, failure_message

GOLDEN = Path(__file__).parents[1] / "golden" / "commands"
FLAGS = (
    "--progress-url=https://operator.test",
    "--restart-backoff-s=600",
    "--restart-backoff-limit-s=600",
    "--stale-after-s=600",
)
FINISHED = ("complete", "f-data", "f-deadline", "f-gate", "f-image", "f-memory", "f-pending", "f-restarts")
OPEN = ("admitted", "new", "pending", "queued", "quota", "restarting", "running", "suspended")


@pytest.fixture(scope="module")
def world(cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A namespace with one job in each state, and an operator that was stopped so that they stay."""
    serve_workloads(cluster, tmp_path_factory.mktemp("kueue"))
    with shared_world(cluster, "states", tmp_path_factory.mktemp("operator"), *FLAGS) as found:
        every_state(found)
        yield found


@pytest.fixture(scope="module")
def user(cluster, world: World) -> User:
    return User(cluster.kubeconfig, world.namespace)


def every_state(world: World) -> None:
    """Bring one job into each state; those that wait for a deadline begin first."""
    world.apply("f-pending", pendingDeadlineSeconds=10)
    world.kubelet.unschedulable(world.await_child("f-pending"))
    world.apply("f-deadline", activeDeadlineSeconds=1)
    world.run("f-deadline")
    world.apply("f-image")
    world.kubelet.image_pull_backoff(world.await_child("f-image"))
    ends(world)
    world.apply("suspended", suspend=True)
    world.apply("pending", pendingDeadlineSeconds=86400)
    world.kubelet.unschedulable(world.await_child("pending"))
    queues(world)
    world.apply("running")
    assert post_progress(world, world.run("running")) == httpx.codes.NO_CONTENT
    for name in FINISHED:
        world.await_condition("Finished", "True", name=name)
    for name in ("f-deadline", "f-image", "f-pending"):
        await_that(
            lambda it=name: world.children(it) == [] and is_being_deleted(world, it), f"the end of {name}'s gang"
        )
    for name in ("pending", "restarting", "suspended"):
        world.await_phase(name.title(), name)
    await_that(lambda: world.status("running").get("progress"), "the progress")
    quota = {"metadata": {"name": "full"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    world.api.post(world.url("resourcequotas"), json=quota).raise_for_status()
    await_that(lambda: world.api.get(world.url("resourcequotas", "full")).json()["status"].get("hard"), "the quota")
    world.apply("quota")
    world.await_condition("Running", "False", "QuotaExceeded", "quota")
    world.settle()
    world.operator.kill()
    world.apply("new")


def is_being_deleted(world: World, name: str) -> bool:
    return all("deletionTimestamp" in each["metadata"] for each in world.kubelet.pods(world.child_name(name)))


def ends(world: World) -> None:
    """Let jobs end: complete, for three reasons of their own, and to be tried again."""
    artifact = ArtifactRef(uri="pvc://models/out", digest="0" * 64, formats=["adapter"])
    metrics = {"test/accuracy": 0.912345678}
    complete = Result(outcome="Complete", step=300, max_steps=300, metrics=metrics, artifact=artifact).to_json()
    for name, reason, message in (
        ("complete", None, complete),
        ("f-data", Reason.DATA_ERROR, failure_message(Reason.DATA_ERROR, "train.csv, row 7: no label")),
        ("f-gate", Reason.GATE_FAILED, failure_message(Reason.GATE_FAILED, "accuracy 0.7, at least 0.8 is wanted")),
        ("f-restarts", Reason.STORAGE_UNAVAILABLE, failure_message(Reason.STORAGE_UNAVAILABLE, "no space left")),
        ("restarting", Reason.STORAGE_UNAVAILABLE, failure_message(Reason.STORAGE_UNAVAILABLE, "no space left")),
    ):
        limit = {"restarts": {"limit": 0}} if name == "f-restarts" else {}
        world.apply(name, **limit)
        code = 0 if reason is None else exit_code(reason)
        world.kubelet.finish(world.run(name), exit_code=code, message=message)
    # A micro-batch of one sample cannot be halved.
    world.apply("f-memory", training={"batchSize": 1})
    world.kubelet.oom(world.run("f-memory"))


def queues(world: World) -> None:
    """Leave one job in its queue, and admit another whose pods find no machine."""
    for name in ("queued", "admitted"):
        world.apply(name, scheduling={"queue": "team-a"}, pendingDeadlineSeconds=86400)
        world.await_condition("Running", "False", "Queued", name)
    (queued,), (admitted,) = world.children("queued"), world.children("admitted")
    told = {"status": "False", "reason": "Pending", "message": "insufficient unused quota for nvidia.com/gpu"}
    tell_admission(world, queued, type="QuotaReserved", **told)
    tell_admission(world, admitted, type="Admitted", status="True", reason="Admitted", message="the queue has room")
    world.await_condition("Admitted", "False", "Pending", "queued")
    world.await_condition("Admitted", "True", "Admitted", "admitted")
    patch = {"Content-Type": "application/merge-patch+json"}
    url = world.url("jobs", admitted["metadata"]["name"])
    world.api.patch(url, json={"spec": {"suspend": False}}, headers=patch).raise_for_status()
    world.kubelet.unschedulable(admitted["metadata"]["name"])
    world.await_condition("Running", "False", "Unschedulable", "admitted")


def post_progress(world: World, child: str) -> int:
    """Post as rank 0 of a Job, with a token that the API server made for its pod; return the answer's status."""
    pod = world.kubelet.pod(child)["metadata"]
    bound = {"kind": "Pod", "apiVersion": "v1", "name": pod["name"], "uid": pod["uid"]}
    spec = {"audiences": [PROGRESS_AUDIENCE], "expirationSeconds": 600, "boundObjectRef": bound}
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    made = world.api.post(f"{world.url('serviceaccounts', 'default')}/token", json=body).raise_for_status().json()
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    step = {"step": 120, "maxSteps": 300, "epoch": 1.5, "percent": 40, "loss": 0.42151234}
    events = [
        {"kind": "decision", "at": at, "data": {"name": "microBatch", "value": "8", "reason": "fits the device"}},
        {"kind": "checkpoint", "at": at, "data": {"step": 100, "path": "checkpoints/step-00000100", "verified": True}},
        {"kind": "progress", "at": at, "data": step | {"samplesPerSecond": 12.0, "etaSeconds": 3600.0}},
    ]
    url = world.operator.progress_url + PROGRESS_PATH.format(namespace=world.namespace, job=child)
    headers = {"Authorization": f"Bearer {made['status']['token']}"}
    return httpx.post(url, json=events, headers=headers, trust_env=False, timeout=10).status_code


def masked(text: str, *, ages: str = r"(?:\d+[dhms]){1,2}") -> str:
    """Return a text without what differs from run to run: times, distances, drawn names; spaces are joined."""
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z \((?:in )?" + ages + r"(?: ago)?\)", "TIME", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    text = re.sub(r"\bstates-[0-9a-f]{6}\b", "states", text)
    text = re.sub(r"\bstates-node\d+-\d+", "NODE", text)
    text = re.sub(r"\b([a-z-]+)-[a-z2-7]{10}\b", r"\1-HASH", text)
    text = re.sub(r"\b([a-z-]+-HASH-\d)-[a-z0-9]{5}\b", r"\1-POD", text)
    text = re.sub(r"(pods waited|follows in) \d+ s", r"\1 N s", text)
    text = re.sub(r"used: count/jobs.batch=\d+", "used: count/jobs.batch=N", text)
    # Those of one second come in any order.
    events = re.compile(r"(?:^  event .*\n)+", re.MULTILINE)
    text = events.sub(lambda found: "".join(sorted(found[0].splitlines(keepends=True))), text)
    return re.sub(r"(?<=\S)  +", "  ", text)


def columns(table: str, times: set[str]) -> str:
    """Return a table of kubectl's with cells joined by ` | `; cells of time are masked when they are filled."""
    head, *rows = table.splitlines()
    starts = [at for at, letter in enumerate(head) if letter != " " and (at == 0 or head[at - 1] == " ")]
    names = [head[start:].split()[0] for start in starts]
    ends = [*starts[1:], None]
    lines = [names]
    for row in rows:
        found = [row[start:end].strip() for start, end in zip(starts, ends, strict=True)]
        lines.append(["TIME" if text and name in times else text for name, text in zip(names, found, strict=True)])
    return "".join(" | ".join(line).rstrip() + "\n" for line in lines)


def check(name: str, text: str, folder: Path) -> None:
    """Compare with what is written down."""
    seen = folder / name
    seen.write_text(text)
    golden = GOLDEN / name
    written = golden.read_text() if golden.exists() else ""
    assert text == written, f"if this is meant: cp {seen} {golden}"


@pytest.mark.parametrize("wide", [False, True], ids=["usual", "wide"])
def test_kubectl_get_reads_right_in_every_state(world: World, cluster, tmp_path: Path, wide: bool):
    shown = cluster.kubectl("get", "ftj", "-n", world.namespace, *(["-o", "wide"] if wide else []))

    assert "<invalid>" not in shown
    # ETA is masked like AGE: only whether it is filled is compared.
    check("get-wide.txt" if wide else "get.txt", columns(shown, {"AGE", "ETA"}), tmp_path)


def test_kubectl_wait_ends_for_every_end_and_for_nothing_else(world: World, cluster):
    def waits(*names: str) -> subprocess.CompletedProcess[str]:
        jobs = [f"ftj/{name}" for name in names]
        command = [cluster.binary, "kubectl", "--kubeconfig", cluster.kubeconfig, "-n", world.namespace]
        command += ["wait", "--for=condition=Finished", "--timeout=0", *jobs]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    ended = waits(*FINISHED)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [f"finetunejob.finetune.dev/{name} condition met" for name in FINISHED]
    for name in OPEN:
        assert waits(name).returncode == 1, name


def test_status_prints_the_table_that_kubectl_prints(world: World, cluster, user: User):
    def rows(table: str) -> list[str]:
        return [re.sub(r"\b(?:\d+[dhms]){1,2}\b", "AGE", re.sub(" +", " ", line)) for line in table.splitlines()]

    for flags in ([], ["-o", "wide"]):
        theirs = cluster.kubectl("get", "ftj", *flags, "-n", world.namespace)
        assert rows(user.says("status", *flags)) == rows(theirs)
    assert cluster.kubectl("get", "ftj", "-o", "name", "-n", world.namespace) == user.says("status", "-o", "name")


@pytest.mark.parametrize("command", ["status", "why"])
def test_each_state_is_told_as_it_is_written_down(user: User, tmp_path: Path, command: str):
    told = [f"# finetune {command} {name}\n{user.says(command, name)}" for name in (*OPEN, *FINISHED)]

    check(f"{command}.txt", masked("\n".join(told)), tmp_path)


def test_the_remedy_of_the_status_is_the_remedy_that_why_gives(world: World, user: User):
    for name in FINISHED[1:]:
        remedy = world.status(name)["failure"]["remedy"]

        assert remedy, name
        assert user.says("why", name).splitlines()[-1].strip() == remedy
