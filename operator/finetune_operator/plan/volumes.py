"""The volumes of a trainer's pod and where they are mounted.

A claim is one volume however often it is used: a pod that lists a claim under two volume names may never start.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from finetune_api import names
from finetune_api.spec import FineTuneJobSpec, Volume
from finetune_operator.plan.addresses import claim_mount
from finetune_operator.plan.environment import GS_KEY_FOLDER, TEMPORARY
from finetune_operator.plan.resources import shm_size
from finetune_operator.plan.shape import Shape

Objects = list[dict[str, Any]]

VOLUME_PREFIX: Final = "finetune-"
"""Names of our volumes start with it; a manifest's may not."""
OUR_MOUNTS: Final = (
    names.MOUNT_WORK,
    names.MOUNT_SCRATCH,
    names.MOUNT_PROGRESS,
    names.MOUNT_JOB,
    names.MOUNT_CLAIMS,
    GS_KEY_FOLDER,
    TEMPORARY,
    "/dev/shm",  # noqa: S108 - a folder of the pod's own
)
_WORK: Final = f"{VOLUME_PREFIX}work"
_SCRATCH: Final = f"{VOLUME_PREFIX}scratch"
_SHM: Final = f"{VOLUME_PREFIX}shm"
_JOB: Final = f"{VOLUME_PREFIX}job"
_TOKEN: Final = f"{VOLUME_PREFIX}progress"
_GS: Final = f"{VOLUME_PREFIX}gs-key"
_SCRATCH_SIZE: Final = "10Gi"
_TOKEN_S: Final = 3600
_MAX_FOLDER_NAME: Final = 200

_SCRATCH_VOLUME: Final = {"name": _SCRATCH, "emptyDir": {"sizeLimit": _SCRATCH_SIZE}}
_JOB_VOLUME: Final = {
    "name": _JOB,
    "downwardAPI": {
        "items": [
            {
                "path": names.RUN_CONFIG_FILE,
                "fieldRef": {
                    "apiVersion": "v1",
                    "fieldPath": f"metadata.annotations['{names.ANNOTATION_RUN_CONFIG}']",
                },
            }
        ]
    },
}
_TOKEN_VOLUME: Final = {
    "name": _TOKEN,
    "projected": {
        "sources": [
            {
                "serviceAccountToken": {
                    "audience": names.PROGRESS_AUDIENCE,
                    "expirationSeconds": _TOKEN_S,
                    "path": "token",
                }
            }
        ]
    },
}
_COMMON_MOUNTS: Final[Objects] = [
    {"name": _JOB, "mountPath": names.MOUNT_JOB, "readOnly": True},
    {"name": _SCRATCH, "mountPath": names.MOUNT_SCRATCH},
    {"name": _SCRATCH, "mountPath": TEMPORARY, "subPath": "tmp"},
]
_TOKEN_MOUNT: Final = {"name": _TOKEN, "mountPath": names.MOUNT_PROGRESS, "readOnly": True}
_GS_MOUNT: Final = {"name": _GS, "mountPath": GS_KEY_FOLDER, "readOnly": True}
_SHM_MOUNT: Final = {"name": _SHM, "mountPath": "/dev/shm"}  # noqa: S108


@dataclass(slots=True)
class Disks:
    """What the pod mounts."""

    volumes: Objects = field(default_factory=Objects)
    common: Objects = field(default_factory=Objects)
    """Mounts of the trainer and of the container that fetches."""
    trainer: Objects = field(default_factory=Objects)
    """Mounts of the trainer alone."""
    claims: dict[str, str] = field(default_factory=dict[str, str])
    """Volume name of each claim."""


def disks_of(shape: Shape) -> Disks:
    """Return the volumes of a pod and the mounts of its containers."""
    spec = shape.job.spec
    limit = spec.workers.resources.limits.get("memory")
    size = shm_size(spec.pod.shm_size, shape.processes_per_node, limit)
    disks = Disks(
        volumes=[_JOB_VOLUME, _SCRATCH_VOLUME, {"name": _SHM, "emptyDir": {"medium": "Memory", "sizeLimit": size}}],
        common=list(_COMMON_MOUNTS),
        trainer=[_SHM_MOUNT],
    )
    _add_work(disks, shape)
    _add_addressed_claims(disks, shape)
    if shape.settings.progress_url:
        disks.volumes.append(_TOKEN_VOLUME)
        disks.trainer.append(_TOKEN_MOUNT)
    if spec.secrets.gs is not None:
        key = spec.secrets.gs
        items = [{"key": key.key, "path": key.key}]
        disks.volumes.append({"name": _GS, "secret": {"secretName": key.name, "items": items}})
        disks.trainer.append(_GS_MOUNT)
    if spec.pod.volumes or spec.pod.volume_mounts:
        _add_extra(disks, spec)
    return disks


def _add_work(disks: Disks, shape: Shape) -> None:
    storage = shape.job.spec.storage
    mount: dict[str, Any] = {"name": _WORK, "mountPath": names.MOUNT_WORK}
    if storage.ephemeral:
        size = storage.size or shape.settings.default_storage_size
        disks.volumes.append({"name": _WORK, "emptyDir": {"sizeLimit": size}})
    else:
        disks.volumes.append(_claim_volume(_WORK, shape.claim_name, read_only=False))
        disks.claims[shape.claim_name] = _WORK
        if storage.claim_name is not None:
            # A claim that others use too: a folder of its own, which every attempt finds again.
            metadata = shape.job.metadata
            mount["subPath"] = f"{metadata.name[:_MAX_FOLDER_NAME]}-{metadata.uid[:8]}"
    disks.common.append(mount)


def _add_addressed_claims(disks: Disks, shape: Shape) -> None:
    for number, (claim, written) in enumerate(shape.claims.items()):
        if claim not in disks.claims:
            disks.claims[claim] = f"{VOLUME_PREFIX}claim-{number}"
            # A volume that nobody writes to is attached read-only, which claims of access mode ReadOnlyMany need.
            read_only = not written and not _mounts_to_write(shape.job.spec, claim)
            disks.volumes.append(_claim_volume(disks.claims[claim], claim, read_only=read_only))
        mount: dict[str, Any] = {"name": disks.claims[claim], "mountPath": claim_mount(claim)}
        if not written:
            mount["readOnly"] = True
        disks.common.append(mount)


def _mounts_to_write(spec: FineTuneJobSpec, claim: str) -> bool:
    volumes = {each.name for each in spec.pod.volumes if each.claim == claim}
    return any(each.name in volumes and not each.read_only for each in spec.pod.volume_mounts)


def _add_extra(disks: Disks, spec: FineTuneJobSpec) -> None:
    renamed: dict[str, str] = {}
    for volume in spec.pod.volumes:
        if volume.claim is not None and volume.claim in disks.claims:
            renamed[volume.name] = disks.claims[volume.claim]
            continue
        if volume.claim is not None:
            disks.claims[volume.claim] = volume.name
        disks.volumes.append({"name": volume.name, **_source(volume)})
    for extra in spec.pod.volume_mounts:
        mount: dict[str, Any] = {"name": renamed.get(extra.name, extra.name), "mountPath": extra.mount_path}
        if extra.sub_path is not None:
            mount["subPath"] = extra.sub_path
        if extra.read_only:
            mount["readOnly"] = True
        disks.common.append(mount)


def _source(volume: Volume) -> dict[str, Any]:
    if volume.config_map is not None:
        return {"configMap": {"name": volume.config_map}}
    if volume.secret is not None:
        return {"secret": {"secretName": volume.secret}}
    if volume.claim is not None:
        return {"persistentVolumeClaim": {"claimName": volume.claim}}
    return {"emptyDir": volume.empty_dir.to_dict() if volume.empty_dir is not None else {}}


def _claim_volume(name: str, claim: str, *, read_only: bool) -> dict[str, Any]:
    source: dict[str, Any] = {"claimName": claim}
    if read_only:
        source["readOnly"] = True
    return {"name": name, "persistentVolumeClaim": source}
