"""Kueue's part in admission: its real definition of a Workload, its controller's words played."""

import json
import subprocess
from pathlib import Path
from typing import Any

from support.waiting import await_that
from support.world import MERGE, World

_VERSION = "v0.19.2"
_FILE = Path("config", "components", "crd", "bases", "kueue.x-k8s.io_workloads.yaml")
_API = "kueue.x-k8s.io/v1beta2"


def serve_workloads(cluster: Any, folder: Path) -> None:
    """Let the API server serve Workloads; the definition comes from Kueue's Go module."""
    command = ["go", "mod", "download", "-json", f"sigs.k8s.io/kueue@{_VERSION}"]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    cluster.kubectl("apply", "--server-side", "-f", str(Path(json.loads(told)["Dir"]) / _FILE))
    with cluster.client() as client:
        await_that(lambda: client.get(f"/apis/{_API}/workloads").is_success, "Workloads that are served")


def tell_admission(world: World, job: dict[str, Any], **condition: str) -> None:
    """Write the Workload of a Job, with one condition: type, status, reason, message."""
    path, name = f"/apis/{_API}/namespaces/{world.namespace}/workloads", job["metadata"]["name"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"], "controller": True}
    template = {"spec": {"containers": [{"name": "trainer", "image": "i"}], "restartPolicy": "Never"}}
    spec = {"podSets": [{"name": "main", "count": 1, "template": template}], "queueName": "team-a"}
    metadata = {"name": name, "ownerReferences": [owner]}
    posted = world.api.post(path, json={"apiVersion": _API, "kind": "Workload", "metadata": metadata, "spec": spec})
    assert posted.status_code in {201, 409}, posted.text
    status = {"conditions": [{"lastTransitionTime": "2026-01-01T00:00:00Z", **condition}]}
    world.api.patch(f"{path}/{name}/status", json={"status": status}, headers=MERGE).raise_for_status()
