"""FAULTS 35 to 39: specs that got past the schema or are too large, names and texts of every kind, a wrong clock."""

import itertools
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from finetune_api import names
from finetune_api.exit_codes import Reason, exit_code
from support.accounts import grant_operator
from support.operator_process import OperatorProcess
from support.shared_world import shared_world, writes_about
from support.waiting import await_that
from support.world import FAST, SPEC, World, complete_message, failure_message

HOUR_S = 3600
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def world(cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with shared_world(cluster, "faults-input", tmp_path_factory.mktemp("operator")) as found:
        yield found


@pytest.fixture
def job() -> str:
    return f"job{next(_numbers)}-x"


def test_f35_what_a_cluster_cannot_do_ends_the_job_and_others_go_on(world: World, job: str):
    world.apply(job, data={"train": {"uri": "file:///home/me/train.jsonl"}}, output={"uri": "s3://bucket/model"})
    world.apply(f"{job}-good")
    status = world.await_phase("Failed", job)
    world.run(f"{job}-good")

    assert status["failure"]["reason"] == "InvalidSpec"
    assert "spec.data.train.uri" in status["failure"]["message"]
    assert "spec.output.uri" in status["failure"]["message"]
    assert world.condition("Accepted", job)["status"] == "False"
    assert world.condition("Finished", job)["status"] == "True"
    assert world.children(job) == []


LARGE: dict[str, dict[str, Any]] = {
    "one-text": {"method": {"targets": "a," * 500_000 + "a"}},
    "many-variables": {"pod": {"env": [{"name": f"V{i}", "value": "x" * 8000} for i in range(128)]}},
    "many-columns": {
        "data": {"train": {"uri": "pvc://c/t.jsonl"}, "fields": {f"f{i}": "x" * 1000 for i in range(999)}}
    },
    "endless-affinity": {
        "scheduling": {
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["x" * 60] * 16_000}]}
                        ]
                    }
                }
            }
        }
    },
}


@pytest.mark.parametrize("kind", LARGE)
def test_f36_a_spec_of_a_megabyte_is_refused_at_admission(world: World, job: str, kind: str):
    body = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": job}}
    answer = world.api.post(world.url("ftj"), json={**body, "spec": SPEC | LARGE[kind]})

    assert answer.status_code in {httpx.codes.UNPROCESSABLE_ENTITY, httpx.codes.REQUEST_ENTITY_TOO_LARGE}, answer.text
    assert writes_about(world, job) == []


def test_f37_names_of_every_length_have_children_of_their_own(world: World):
    inner = "-".join("0a" * 8)
    shapes = ["a", "0", "a" * 52, "a" * 53, "a" * 62 + "b", f"{'a' * 52}.b", f"{'a' * 100}.{inner}", "9" * 253]
    children = set()
    for name in shapes:
        created = world.apply(name)
        children.add(names.job_name(name, created["metadata"]["uid"], 1))

    def made() -> set[str]:
        found = world.api.get(world.url("jobs")).raise_for_status().json()["items"]
        return {each["metadata"]["name"] for each in found} & children

    await_that(lambda: made() == children, "all Jobs")
    assert len(children) == len(shapes)
    pods = {name: world.kubelet.pod(name)["spec"]["hostname"] for name in children}
    assert all(len(each) <= 63 for each in pods.values())
    for name in shapes:
        world.delete(name)


HOSTILE = "\x1b[2J$(HOME)\r\n`id` \u202e../../x {{ .Values.x }} \x07%s"
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e]")


def test_f38_a_hostile_text_of_a_manifest_or_a_trainer_is_literal_and_escaped_where_people_read_it(
    world: World, cluster, job: str
):
    world.apply(job, pod={"env": [{"name": "TEXT", "value": HOSTILE}]})
    child = world.run(job)
    env = {
        each["name"]: each["value"]
        for each in world.kubelet.pod(child)["spec"]["containers"][0]["env"]
        if "value" in each
    }
    message = failure_message(Reason.DATA_ERROR, HOSTILE)
    world.kubelet.finish(child, exit_code=exit_code(Reason.DATA_ERROR), message=message)
    world.apply(f"{job}-raw")
    world.kubelet.finish(world.run(f"{job}-raw"), exit_code=67, message=f"not JSON {HOSTILE}")
    told = [world.await_phase("Failed", name)["failure"] for name in (job, f"{job}-raw")]
    world.settle()
    events = world.api.get(world.url("events")).json()["items"]
    shown = cluster.kubectl("get", "ftj", "-n", world.namespace)

    # Kubernetes reads $$(HOME) as the text $(HOME).
    assert env["TEXT"] == HOSTILE.replace("$(", "$$(")
    assert [each["reason"] for each in told] == ["DataError", "AccessDenied"]
    assert all("2J$(HOME)" in each["message"] for each in told)
    texts = [each["message"] for each in told] + [each["message"] for each in events if job in each["metadata"]["name"]]
    assert [text for text in texts if CONTROL.search(text)] == []
    assert CONTROL.search(shown) is None
    assert CONTROL.search(world.operator.log.read_text()) is None


SHIFTED_CLOCK = """\
import datetime, os, time

shift_s = float(os.environ["CLOCK_SHIFT_S"])
time_s, time_ns = time.time, time.time_ns
time.time = lambda: time_s() + shift_s
time.time_ns = lambda: time_ns() + int(shift_s * 1e9)

class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=shift_s)

datetime.datetime = Shifted
"""


def test_f39_a_clock_that_is_an_hour_off_ends_nothing_early_and_nothing_late(cluster, namespace: str, tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text(SHIFTED_CLOCK)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))  # noqa: TID251 - the rim

    def operator(number: int, shift_s: int) -> OperatorProcess:
        env = {"PYTHONPATH": path, "CLOCK_SHIFT_S": str(shift_s)}
        folder = tmp_path / f"operator-{number}"
        return OperatorProcess(world.proxy.url, grant_operator(cluster), folder, (namespace,), env, flags=FAST)

    with World(cluster, namespace, tmp_path) as world:
        world.operator = operator(1, -HOUR_S)
        world.operator.start()
        world.apply("long", activeDeadlineSeconds=600, pendingDeadlineSeconds=600)
        world.run("long")
        # The next one, on another machine, finds times that it did not write itself.
        world.operator.kill()
        world.operator = operator(2, HOUR_S)
        world.operator.start()
        world.apply("short", activeDeadlineSeconds=2, ttlSecondsAfterFinished=1800)
        world.run("short")
        ended = world.await_phase("Failed", "short")
        world.settle()
        running = world.status("long")

        assert ended["failure"]["reason"] == "DeadlineExceeded"
        assert ended["activeSeconds"] < 60
        assert running["phase"] == "Running"
        assert all(age_s(at) < 120 for at in (running["startTime"], ended["completionTime"]))
        world.kubelet.finish(world.child_name("long"), message=complete_message())
        assert world.await_phase("Complete", "long")["activeSeconds"] < 120
        # What shows that the clock was wrong: the log's.
        logged = datetime.strptime(world.operator.log.read_text()[:19], "%Y-%m-%d %H:%M:%S").astimezone()
        assert abs((logged - datetime.now().astimezone()).total_seconds() - HOUR_S) < 300


def age_s(at: str) -> float:
    return abs((datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds())
