"""A real Kueue: it admits, lets wait, and preempts."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from node import binaries
from node.images import Images
from node.node import Node
from node.world import World
from support.waiting import await_that

pytestmark = pytest.mark.e2e
_IMAGE = "docker.io/library/kueue:e2e"
_SYSTEM = "kueue-system"
_HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def queue(world: World, node: Node, images: Images, folder: Path) -> Iterator[str]:
    # The chart starts it under this name.
    program = folder / "manager"
    shutil.copy(binaries.kueue.build() / "kueue", program)
    images.build_program(_IMAGE, program)
    node.load(_IMAGE)
    chart = binaries.source(binaries.kueue) / "charts" / "kueue"
    config = yaml.safe_load((chart / "values.yaml").read_text())["managerConfig"]["controllerManagerConfigYaml"]
    document = yaml.safe_load(config)
    document["integrations"]["frameworks"] = ["batch/job"]
    manager = {
        "image": {"repository": "kueue", "tag": "e2e", "pullPolicy": "Never"},
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "2", "memory": "512Mi"}},
    }
    values = {
        "controllerManager": {"manager": manager},
        "managerConfig": {"controllerManagerConfigYaml": yaml.safe_dump(document)},
    }
    file = folder / "kueue-values.yaml"
    file.write_text(yaml.safe_dump(values))
    where = (f"--namespace={_SYSTEM}", "--create-namespace", f"--values={file}", "--wait", "--timeout=110s")
    world.helm.run("install", "kueue", str(chart), *where)
    await_that(lambda: _applies(world), "Kueue's webhooks")
    yield "team-a"
    world.helm.run("uninstall", "kueue", f"--namespace={_SYSTEM}")


def test_a_queue_admits_one_job_lets_the_next_wait_and_preempts_for_an_urgent_one(world: World, queue: str):
    first = world.submit("first", scheduling={"queue": queue}, training__maxSteps=300)
    first.await_checkpoint()
    # Kueue came after the operator, which looks for it now and then.
    await_that(lambda: first.condition("Admitted").get("status") == "True", "a job that is admitted")

    second = world.submit("second", scheduling={"queue": queue}, training__maxSteps=3)
    await_that(lambda: second.condition("Admitted").get("status") == "False", "a job that waits")
    assert not second.pods()

    urgent = world.submit("urgent", scheduling={"queue": queue, "priorityClassName": "urgent"}, training__maxSteps=3)
    urgent.await_phase("Running")
    assert first.status["phase"] not in {"Running", "Failed"}, first.evidence()
    urgent.complete()

    status = first.complete()
    assert status.get("restarts", 0) == 0, first.evidence()
    second.complete()


def _applies(world: World) -> bool:
    try:
        world.kubectl("apply", "-f", str(_HERE / "queue.yaml"))
    except AssertionError:
        return False
    return True
