"""The pod template of an attempt: one trainer per node, under the restricted Pod Security level."""

from typing import Any, Final

from finetune_api import names
from finetune_api.run_config import text_digest
from finetune_api.spec import FineTuneJobSpec
from finetune_api.spec import Pod as PodOverrides
from finetune_operator.plan.environment import fetch_env, trainer_env
from finetune_operator.plan.resources import trainer_resources, without_devices
from finetune_operator.plan.run_config import run_config
from finetune_operator.plan.shape import Shape
from finetune_operator.plan.volumes import Disks, disks_of

FETCH_CONTAINER: Final = "fetch-model"
_NOBODY: Final = 65532
_ROOT: Final = 0
# A sidecar that outlives the trainer would keep the pod, and with it the job, from ending.
_NO_MESH_LABELS: Final = {"sidecar.istio.io/inject": "false"}
_NO_MESH_ANNOTATIONS: Final = {"linkerd.io/inject": "disabled"}
_CONTAINER_SECURITY: Final = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
_SECCOMP: Final = {"type": "RuntimeDefault"}
_METRICS_PORT: Final = {"name": names.METRICS_PORT_NAME, "containerPort": names.METRICS_PORT, "protocol": "TCP"}
_RENDEZVOUS_PORT: Final = {"name": "rendezvous", "containerPort": names.RENDEZVOUS_PORT, "protocol": "TCP"}


def pod_template(shape: Shape) -> dict[str, Any]:
    """Return the template of an attempt's pods."""
    pod = shape.job.spec.pod
    config = run_config(shape).to_json()
    return {
        "metadata": {
            "labels": {**_NO_MESH_LABELS, **pod.labels, **shape.labels},
            "annotations": {
                "kubectl.kubernetes.io/default-container": names.TRAINER_CONTAINER,
                **_NO_MESH_ANNOTATIONS,
                **pod.annotations,
                names.ANNOTATION_RUN_CONFIG: config,
            },
        },
        "spec": _pod_spec(shape, text_digest(config)),
    }


def _pod_spec(shape: Shape, sha256: str) -> dict[str, Any]:
    spec = shape.job.spec
    disks = disks_of(shape)
    resources = trainer_resources(
        spec.workers, shape.settings.default_requests, (spec.storage.size or "") if spec.storage.ephemeral else ""
    )
    content: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": spec.pod.termination_grace_period_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": _pod_security(spec.pod),
        "containers": [_trainer(shape, disks, resources, sha256)],
        "volumes": disks.volumes,
    }
    if shape.fetches:
        content["initContainers"] = [_fetcher(shape, disks, resources, sha256)]
    if shape.nodes > 1:
        content["subdomain"] = shape.service_name
    return content | _placement(spec)


def _trainer(shape: Shape, disks: Disks, resources: dict[str, Any], sha256: str) -> dict[str, Any]:
    claims = shape.job.spec.pod.resource_claims
    return {
        **_container(shape, "launch", sha256),
        "name": names.TRAINER_CONTAINER,
        "env": trainer_env(shape),
        "ports": [_METRICS_PORT, _RENDEZVOUS_PORT] if shape.nodes > 1 else [_METRICS_PORT],
        "resources": resources | {"claims": [{"name": each.name} for each in claims]} if claims else resources,
        "volumeMounts": [*disks.common, *disks.trainer],
    }


def _fetcher(shape: Shape, disks: Disks, resources: dict[str, Any], sha256: str) -> dict[str, Any]:
    return {
        **_container(shape, "fetch", sha256),
        "name": FETCH_CONTAINER,
        "env": fetch_env(shape),
        "resources": without_devices(resources),
        "volumeMounts": disks.common,
    }


def _container(shape: Shape, verb: str, sha256: str) -> dict[str, Any]:
    pod, settings = shape.job.spec.pod, shape.settings
    container: dict[str, Any] = {
        "image": pod.image or settings.trainer_image,
        "args": [verb, "--config", f"{names.MOUNT_JOB}/{names.RUN_CONFIG_FILE}", "--sha256", sha256],
        # An end without a message of ours, such as an import error, is told by its last lines of output.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": _CONTAINER_SECURITY,
    }
    policy = pod.image_pull_policy or settings.image_pull_policy
    if policy:
        container["imagePullPolicy"] = policy
    return container


def _pod_security(pod: PodOverrides) -> dict[str, Any]:
    user = _NOBODY if pod.run_as_user is None else pod.run_as_user
    return {
        # Root is asked for by name only; a namespace at the restricted level refuses it.
        "runAsNonRoot": user != _ROOT,
        "runAsUser": user,
        "runAsGroup": _NOBODY if pod.run_as_group is None else pod.run_as_group,
        "fsGroup": _NOBODY if pod.fs_group is None else pod.fs_group,
        # A volume with many files is not walked again at every start.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": _SECCOMP,
    }


def _placement(spec: FineTuneJobSpec) -> dict[str, Any]:
    """Return where the pods go and as whom, without what is left open."""
    scheduling, pod = spec.scheduling, spec.pod
    wanted: dict[str, Any] = {
        "nodeSelector": scheduling.node_selector,
        "tolerations": [each.to_dict() for each in scheduling.tolerations],
        "affinity": scheduling.affinity.to_dict() if scheduling.affinity else None,
        "priorityClassName": scheduling.priority_class_name,
        "schedulerName": pod.scheduler_name,
        "runtimeClassName": pod.runtime_class_name,
        "serviceAccountName": pod.service_account_name,
        "imagePullSecrets": [{"name": each} for each in pod.image_pull_secrets],
        "resourceClaims": [each.to_dict() for each in pod.resource_claims],
    }
    return {key: value for key, value in wanted.items() if value}
