"""The golden manifests, and what else their plans depend on."""

import copy
from pathlib import Path
from typing import Any

import yaml

from finetune_api import names
from finetune_api.run_config import RunConfig
from finetune_api.spec import FineTuneJob
from finetune_api.validation import validate_manifest
from finetune_operator.plan import Attempt, Plan, plan
from finetune_operator.settings import Settings

HERE = Path(__file__).parent
COLLECTIONS = {
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "Service": "/api/v1/namespaces/{}/services",
    "PersistentVolumeClaim": "/api/v1/namespaces/{}/persistentvolumeclaims",
    "Pod": "/api/v1/namespaces/{}/pods",
}
"""Where each kind is posted to, by namespace."""
MANIFESTS = HERE / "manifests"
CASES = sorted(path.stem for path in MANIFESTS.glob("*.yaml"))
SETTINGS = Settings(
    trainer_image="registry.example/finetune-trainer:1.2.3",
    progress_url="https://finetune-operator.finetune-system.svc:8443",
    progress_ca="-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
)
FIRST = Attempt(1)
_OTHER_SETTINGS = {"smallest": Settings()}
_OTHER_ATTEMPTS = {"restarted": Attempt(3, micro_batch=4, suspended=True)}


def manifest_of(case: str) -> dict[str, Any]:
    return yaml.safe_load((MANIFESTS / f"{case}.yaml").read_text())


def job_of(case: str, **spec: Any) -> FineTuneJob:
    """Return a case's job, with parts of its spec replaced."""
    document = copy.deepcopy(manifest_of(case))
    document["spec"] |= spec
    return validate_manifest(document)


def plan_of(case: str) -> Plan:
    settings = _OTHER_SETTINGS.get(case, SETTINGS)
    return plan(job_of(case), _OTHER_ATTEMPTS.get(case, FIRST), settings)


def children(planned: Plan) -> list[dict[str, Any]]:
    """Return the objects that exist, in the order in which they are written down."""
    return [each for each in (planned.claim, planned.service, planned.job) if each is not None]


def smallest(**spec: Any) -> FineTuneJob:
    """Return the smallest job, with parts of its spec replaced."""
    return job_of("smallest", **spec)


def named(name: str, uid: str, nodes: int = 1) -> FineTuneJob:
    job = smallest(workers={"nodes": nodes})
    return job.model_copy(update={"metadata": job.metadata.model_copy(update={"name": name, "uid": uid})})


def pod_of(job: FineTuneJob, settings: Settings = SETTINGS) -> dict[str, Any]:
    return plan(job, FIRST, settings).job["spec"]["template"]["spec"]


def trainer_of(job: FineTuneJob, settings: Settings = SETTINGS) -> dict[str, Any]:
    return pod_of(job, settings)["containers"][0]


def env_of(container: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def config_of(job: FineTuneJob, attempt: Attempt = FIRST, settings: Settings = SETTINGS) -> RunConfig:
    """Return the configuration that the trainer reads, checked by the digest in its arguments."""
    template = plan(job, attempt, settings).job["spec"]["template"]
    text = template["metadata"]["annotations"][names.ANNOTATION_RUN_CONFIG]
    return RunConfig.from_json(text, sha256=template["spec"]["containers"][0]["args"][-1])
