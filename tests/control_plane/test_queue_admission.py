"""A job in a Kueue queue: made suspended, its Workload's admission mirrored, nothing of Kueue's touched.

Kueue's Workload definition is the real one, from its Go module; its controller's part is played here.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.names import LABEL_QUEUE
from support.waiting import await_that
from support.world import MERGE, World, complete_message

KUEUE = "v0.19.2"
WORKLOADS = "kueue.x-k8s.io_workloads.yaml"
GROUP = "kueue.x-k8s.io"
WORKLOADS_NAME = f"workloads.{GROUP}"


@pytest.fixture
def world(cluster, namespace: str, tmp_path: Path) -> Iterator[World]:
    command = ["go", "mod", "download", "-json", f"sigs.k8s.io/kueue@{KUEUE}"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    definition = Path(json.loads(told)["Dir"]) / "config" / "components" / "crd" / "bases" / WORKLOADS
    cluster.kubectl("apply", "--server-side", "-f", str(definition))
    with cluster.client() as client:
        path = "/apis/kueue.x-k8s.io/v1beta2/workloads"
        await_that(lambda: client.get(path).is_success, "Workloads that are served")
    with World(cluster, namespace, tmp_path) as found:
        yield found


def workload(world: World, job: dict, **condition: str) -> None:
    """Play Kueue's controller: the Workload of a Job, with one condition."""
    path = f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{world.namespace}/workloads"
    name = job["metadata"]["name"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"], "controller": True}
    template = {"spec": {"containers": [{"name": "trainer", "image": "i"}], "restartPolicy": "Never"}}
    spec = {"podSets": [{"name": "main", "count": 1, "template": template}], "queueName": "team-a"}
    kind = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload"}
    metadata = {"name": name, "ownerReferences": [owner]}
    posted = world.api.post(path, json={**kind, "metadata": metadata, "spec": spec})
    assert posted.status_code in {201, 409}, posted.text
    full = {"message": "told by Kueue", "lastTransitionTime": "2026-01-01T00:00:00Z", **condition}
    status = {"conditions": [full]}
    world.api.patch(f"{path}/{name}/status", json={"status": status}, headers=MERGE).raise_for_status()


def test_a_queued_job_waits_suspended_mirrors_its_admission_and_runs_when_kueue_lets_it(world: World):
    world.operator.start()
    world.apply(scheduling={"queue": "team-a"})
    child = world.await_child()
    (job,) = world.children()
    world.await_condition("Running", "False", "Queued")
    workload(world, job, type="QuotaReserved", status="False", reason="Pending")
    await_that(lambda: world.condition("Admitted").get("message") == "told by Kueue", "the reason of the wait")
    waiting = world.condition("Admitted")
    workload(world, job, type="Admitted", status="True", reason="Admitted")
    world.await_condition("Admitted", "True")

    assert (waiting["status"], waiting["reason"]) == ("False", "Pending")
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"][LABEL_QUEUE] == "team-a"
    assert not [each for each in world.proxy.writes if each.resource == "jobs" and each.method == "PATCH"]

    # Kueue starts an admitted Job by lifting its suspension.
    world.api.patch(world.url("jobs", child), json={"spec": {"suspend": False}}, headers=MERGE).raise_for_status()
    world.kubelet.finish(world.run(), message=complete_message())
    world.await_phase("Complete")
    assert len(world.children()) == 1


def test_a_kueue_that_is_installed_after_the_operator_is_heard_without_a_restart(world: World):
    definition = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{WORKLOADS_NAME}"
    installed = world.api.get(definition).raise_for_status().json()
    world.api.delete(definition).raise_for_status()
    await_that(lambda: world.api.get(f"/apis/{GROUP}").status_code == 404, "an API without Kueue")
    world.operator.start()
    world.apply(scheduling={"queue": "team-a"})
    world.await_child()
    world.await_condition("Running", "False", "Queued")

    new = {"metadata": {"name": WORKLOADS_NAME, "annotations": installed["metadata"]["annotations"]}}
    posted = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", **new}
    world.api.post(definition.rpartition("/")[0], json=posted | {"spec": installed["spec"]}).raise_for_status()
    await_that(lambda: world.api.get(f"/apis/{GROUP}/v1beta2/workloads").is_success, "Workloads that are served")
    (job,) = world.children()
    workload(world, job, type="Admitted", status="True", reason="Admitted")

    world.await_condition("Admitted", "True")
