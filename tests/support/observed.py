"""A cluster that is watched: real operator, real training, real Prometheus, and jobs in every state that a board shows.

The control plane has no nodes, so pods are played; the training of one of them is a real process on this machine that
posts its progress to the operator with its pod's own token and is scraped as the chart's PodMonitor would.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.exit_codes import Reason, exit_code
from finetune_api.names import PROGRESS_AUDIENCE, PROGRESS_PATH
from finetune_api.run_config import Endpoint, JobIdentity, Paths, RunConfig, text_digest
from finetune_api.validation import validate_manifest
from finetune_trainer.series import Device, Metrics
from support.cluster import ROOT, load_control_plane
from support.https import write_certificate
from support.prometheus import Prometheus
from support.waiting import await_that
from support.world import World, complete_message, failure_message

ALERTS = ROOT / "charts" / "finetune-operator" / "files" / "alerts.yaml"
NAMESPACE, NAME = "ml", "movie-sentiment"
# There is no GPU here: these numbers are made up, of the size that cards tell, and served by the trainer's own code.
MADE_UP_GPUS = [
    Device(0, 0.93, 31.2 * 2**30, 80.0 * 2**30, 61.0, 412.0),
    Device(1, 0.91, 30.9 * 2**30, 80.0 * 2**30, 58.0, 398.0),
]
_MADE_UP_IS_GPU = {
    "action": "keep",
    "source_labels": ["job", "__name__"],
    "regex": "made-up;finetune_gpu_.+|(finetune-operator|trainers);.+",
}


@dataclass
class Observed:
    """What is watched, and by whom."""

    prometheus: Prometheus
    world: World
    trainer: subprocess.Popen[bytes]
    trainer_url: str
    log: Path
    """What the trainer wrote."""

    def check_training(self) -> None:
        """Fail when the trainer has ended by itself."""
        assert self.trainer.poll() is None, self.log.read_text()[-3000:]

    def end_training(self) -> int:
        """Ask the trainer to stop, as the kubelet does; return its exit code."""
        self.trainer.send_signal(signal.SIGTERM)
        return self.trainer.wait(120)


@contextmanager
def observed(folder: Path, manifest: dict[str, Any]) -> Iterator[Observed]:
    """Start everything and end it afterwards.

    Args:
        folder: For everything that is written.
        manifest: Of the job that is trained for real; its data and model are files of this machine.
    """
    plane = load_control_plane(folder / "plane")
    try:
        with plane.client() as api:
            api.post("/api/v1/namespaces", json={"metadata": {"name": NAMESPACE}}).raise_for_status()
        ca = write_certificate(folder)
        flags = (f"--tls-certificate={folder / 'tls.crt'}", f"--tls-key={folder / 'tls.key'}")
        prometheus = Prometheus(folder / "prometheus", ALERTS, [_MADE_UP_IS_GPU])
        with World(plane, NAMESPACE, folder, flags=flags) as world, prometheus:
            world.operator.start()
            prometheus.scrape(f"{world.operator.metrics_url}/metrics", job="finetune-operator")
            # What is counted before the first scrape is no increase.
            await_that(lambda: prometheus.now("finetune_operator_acting"), "the operator to be scraped")
            _play_others(world)
            child = _second_attempt(world)
            trainer = _train(folder, manifest, world, child, ca)
            try:
                url = await_that(lambda: _metrics_url(folder), "the trainer's metrics")
                pod = world.kubelet.pod(child)["metadata"]["name"]
                labels = {"job": "trainers", "namespace": NAMESPACE, "name": NAME, "pod": pod}
                prometheus.scrape(url, **labels)
                gpus = Metrics(lambda: MADE_UP_GPUS).serve("127.0.0.1:0")
                prometheus.scrape(gpus, **labels | {"job": "made-up"})
                yield Observed(prometheus, world, trainer, url, folder / "trainer.log")
            finally:
                trainer.kill()
                trainer.wait(30)
    finally:
        plane.stop()


def _play_others(world: World) -> None:
    """Make a job that is Complete, one that failed, one that waits for a machine, one that a quota stops."""
    world.apply("done")
    world.kubelet.finish(world.run("done"), message=complete_message())
    world.await_phase("Complete", "done")
    world.apply("broken")
    reason = Reason.NON_FINITE_LOSS
    world.kubelet.finish(world.run("broken"), 0, exit_code(reason), failure_message(reason))
    world.await_phase("Failed", "broken")
    world.apply("waiting")
    world.kubelet.unschedulable(world.await_child("waiting"))
    world.await_phase("Pending", "waiting")
    quota = {"metadata": {"name": "no-more-jobs"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    url = f"/api/v1/namespaces/{world.namespace}/resourcequotas"
    world.apply(NAME)
    world.await_child(NAME)
    world.api.post(url, json=quota).raise_for_status()
    await_that(lambda: world.api.get(f"{url}/no-more-jobs").json().get("status", {}).get("used"), "the quota's count")
    world.apply("crowded")
    world.await_condition("Running", "False", "QuotaExceeded", "crowded")
    world.api.delete(f"{url}/no-more-jobs").raise_for_status()


def _second_attempt(world: World) -> str:
    """Evict the first attempt and let the second run; return its Job's name."""
    world.kubelet.evict(world.run(NAME))
    return world.run(NAME, attempt=2)


def _train(folder: Path, manifest: dict[str, Any], world: World, child: str, ca: str) -> subprocess.Popen[bytes]:
    """Start the launcher of rank 0 as its container would."""
    token = folder / "token"
    token.write_text(_pod_token(world, world.kubelet.pod(child)["metadata"]))
    url = world.operator.progress_url + PROGRESS_PATH.format(namespace=NAMESPACE, job=child)
    paths = {name: str(folder / name) for name in ("work", "output", "cache")}
    config = RunConfig(
        job=JobIdentity(name=NAME, namespace=NAMESPACE, uid=world.job(NAME)["metadata"]["uid"], attempt=2),
        spec=validate_manifest(manifest).spec,
        paths=Paths(**paths, manifest_folder=str(folder)),
        processes=1,
        progress=Endpoint(url=url, ca=ca),
    )
    text = config.to_json()
    (folder / "run.json").write_text(text)
    command = [sys.executable, "-m", "finetune_trainer", "launch", "--config", str(folder / "run.json")]
    environment = os.environ | {"FINETUNE_TOKEN_FILE": str(token), "FINETUNE_METRICS_ADDRESS": "127.0.0.1:0"}  # noqa: TID251
    with (folder / "trainer.log").open("wb") as log:
        return subprocess.Popen([*command, "--sha256", text_digest(text)], env=environment, stdout=log, stderr=log)


def _metrics_url(folder: Path) -> str | None:
    """Return where rank 0 serves its metrics, which its first event tells."""
    events = folder / "work" / "events.jsonl"
    if not events.exists():
        return None
    found = (
        line.partition('"value":"')[2].partition('"')[0]
        for line in events.read_text().splitlines()
        if "/metrics" in line
    )
    return next(found, None)


def _pod_token(world: World, pod: dict[str, Any]) -> str:
    bound = {"kind": "Pod", "apiVersion": "v1", "name": pod["name"], "uid": pod["uid"]}
    spec = {"audiences": [PROGRESS_AUDIENCE], "expirationSeconds": 600, "boundObjectRef": bound}
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    made = world.api.post(f"{world.url('serviceaccounts', 'default')}/token", json=body).raise_for_status().json()
    return made["status"]["token"]
