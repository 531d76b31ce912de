"""The environment of the trainer and of the container that fetches before it."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from finetune_api import names
from finetune_api.spec import EnvVar, SecretKey, Secrets
from finetune_operator.plan.shape import Shape

Env = list[dict[str, Any]]

TERMINATION_LOG: Final = "/dev/termination-log"
TEMPORARY: Final = "/tmp"  # noqa: S108 - a folder of the pod's own
GS_KEY_FOLDER: Final = "/etc/finetune-gs"
# The launcher needs time to read the ranks' results and to write the termination message.
_LAUNCHER_S: Final = 10
_S3_REQUIRED: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_S3_OPTIONAL: Final = ("AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION")


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


# The root file system is read-only: whatever a library writes beside the job goes to the scratch volume.
_PLACES: Final[Env] = [
    {"name": "HOME", "value": names.MOUNT_SCRATCH},
    {"name": "HF_HOME", "value": f"{names.MOUNT_SCRATCH}/huggingface"},
    {"name": "TMPDIR", "value": TEMPORARY},
    {"name": "TORCHINDUCTOR_CACHE_DIR", "value": f"{names.MOUNT_SCRATCH}/inductor"},
    {"name": "FINETUNE_TERMINATION_LOG", "value": TERMINATION_LOG},
    # Which pod wrote a checkpoint: attempt and uid together fence off a pod from before a suspension.
    _field("FINETUNE_POD_NAME", "metadata.name"),
    _field("FINETUNE_POD_UID", "metadata.uid"),
]
# Whatever is needed was fetched before: a rank that asks the hub would wait for a network that it may not have.
_OFFLINE: Final[Env] = [{"name": "HF_HUB_OFFLINE", "value": "1"}, {"name": "TRANSFORMERS_OFFLINE", "value": "1"}]
_GANG: Final[Env] = [
    # A rank whose peer died aborts its collective instead of waiting for the timeout.
    {"name": "TORCH_NCCL_ASYNC_ERROR_HANDLING", "value": "1"},
    # The dump of a timeout goes where it can be written.
    {"name": "TORCH_NCCL_DEBUG_INFO_TEMP_FILE", "value": f"{names.MOUNT_SCRATCH}/nccl-trace-"},
    # Names the interface or the transport that failed; silent otherwise.
    {"name": "NCCL_DEBUG", "value": "WARN"},
]


def trainer_env(shape: Shape) -> Env:
    """Return the environment of the container that trains."""
    spec = shape.job.spec
    grace_s = spec.pod.termination_grace_period_seconds - _LAUNCHER_S
    ours: Env = [
        *_PLACES,
        *_OFFLINE,
        {"name": "FINETUNE_GRACE_SECONDS", "value": str(grace_s)},
        {"name": "FINETUNE_METRICS_ADDRESS", "value": f"0.0.0.0:{names.METRICS_PORT}"},
    ]
    if shape.nodes > 1:
        ours += _GANG
    ours += _store_secrets(spec.secrets)
    if spec.secrets.wandb is not None and "wandb" in spec.tracking:
        ours.append(_from_secret("WANDB_API_KEY", spec.secrets.wandb))
    return _merged(ours, spec.pod.env)


def fetch_env(shape: Shape) -> Env:
    """Return the environment of the container that fetches; only it holds the hub's token."""
    spec = shape.job.spec
    # The image is offline by default; this container is the one that is not.
    ours: Env = [*_PLACES, *({"name": name, "value": "0"} for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))]
    if spec.secrets.hugging_face is not None:
        ours.append(_from_secret("HF_TOKEN", spec.secrets.hugging_face))
    return _merged(ours, spec.pod.env)


def literal(value: str) -> str:
    """Return a value that Kubernetes leaves as it is: it expands `$(NAME)`, and reads `$$` as one dollar."""
    return value.replace("$", "$$")


def _merged(ours: Env, theirs: Iterable[EnvVar]) -> Env:
    """Return both, each name once; the manifest's value wins where the schema lets it name the variable at all."""
    named = {each.name: _entry(each) for each in theirs}
    return [each for each in ours if each["name"] not in named] + list(named.values())


def _entry(variable: EnvVar) -> dict[str, Any]:
    if variable.secret is not None:
        return _from_secret(variable.name, variable.secret)
    return {"name": variable.name, "value": literal(variable.value or "")}


def _from_secret(name: str, secret: SecretKey) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}


def _store_secrets(secrets: Secrets) -> Env:
    env: Env = []
    if secrets.s3 is not None:
        source: Mapping[str, str] = {"name": secrets.s3.name}
        env += [{"name": key, "valueFrom": {"secretKeyRef": {**source, "key": key}}} for key in _S3_REQUIRED]
        env += [
            {"name": key, "valueFrom": {"secretKeyRef": {**source, "key": key, "optional": True}}}
            for key in _S3_OPTIONAL
        ]
    if secrets.gs is not None:
        env.append({"name": "GOOGLE_APPLICATION_CREDENTIALS", "value": f"{GS_KEY_FOLDER}/{secrets.gs.key}"})
    return env
