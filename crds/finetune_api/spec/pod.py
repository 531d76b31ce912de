"""What may be changed about the pods: a bounded list, since the operator's wiring must survive it."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Annotations, Contract, DnsLabel, DnsName, Labels, Quantity
from finetune_api.spec.cluster import PodResourceClaim, SecretKey

UserId = Annotated[int, Field(ge=0, le=4294967294)]


class EnvVar(Contract):
    """One environment variable of the trainer."""

    name: Annotated[str, Field(max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Name; FINETUNE_* and those that connect the workers are refused."""
    value: Annotated[str, Field(max_length=8192)] | None = None
    """Value as it is; nothing is expanded."""
    secret: SecretKey | None = None
    """Take the value from a Secret."""


class EmptyDir(Contract):
    """A folder that lives as long as the pod."""

    medium: Literal["", "Memory"] = ""
    """Empty for the machine's disk, Memory for RAM, which counts against the memory limit."""
    size_limit: Quantity | None = None
    """Most that it may hold."""


class Volume(Contract):
    """A volume of a kind that needs no right beyond the namespace; exactly one source."""

    name: DnsLabel
    """Name that the mounts use."""
    config_map: DnsName | None = None
    """Name of a ConfigMap."""
    secret: DnsName | None = None
    """Name of a Secret."""
    claim: DnsName | None = None
    """Name of a PersistentVolumeClaim."""
    empty_dir: EmptyDir | None = None
    """A folder that lives as long as the pod."""


class VolumeMount(Contract):
    """Where a volume appears in the trainer's container."""

    name: DnsLabel
    """Name of a volume in pod.volumes."""
    mount_path: Annotated[str, Field(max_length=1024, pattern=r"^/[^:\x00]+$")]
    """Absolute path in the container."""
    sub_path: Annotated[str, Field(max_length=1024)] | None = None
    """Folder inside the volume."""
    read_only: bool = False
    """Mount it so that it cannot be written."""


class Pod(Contract):
    """Overrides for the trainer's pods."""

    image: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^\S+$")] | None = None
    """Trainer image; the operator's own when absent."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled; Kubernetes' default when absent."""
    image_pull_secrets: Annotated[list[DnsName], Field(max_length=16)] = Field(default_factory=list[DnsName])
    """Names of the Secrets for the image's registry."""
    env: Annotated[list[EnvVar], Field(max_length=64)] = Field(default_factory=list[EnvVar])
    """Additional environment variables of the trainer."""
    volumes: Annotated[list[Volume], Field(max_length=32)] = Field(default_factory=list[Volume])
    """Additional volumes."""
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=32)] = Field(default_factory=list[VolumeMount])
    """Where the additional volumes appear."""
    service_account_name: DnsName | None = None
    """Service account, for workload identity; its token is not mounted."""
    runtime_class_name: DnsName | None = None
    """RuntimeClass of the pods."""
    scheduler_name: DnsName | None = None
    """Scheduler of the pods; Kubernetes' default when absent."""
    labels: Labels = Field(default_factory=dict)
    """Additional labels of the pods; finetune.dev/ is refused."""
    annotations: Annotations = Field(default_factory=dict)
    """Additional annotations of the pods; finetune.dev/ is refused."""
    run_as_user: UserId | None = None
    """User id of the trainer; 0 is refused by the restricted Pod Security level."""
    run_as_group: UserId | None = None
    """Group id of the trainer."""
    fs_group: UserId | None = None
    """Group that owns the volumes."""
    resource_claims: Annotated[list[PodResourceClaim], Field(max_length=16)] = Field(
        default_factory=list[PodResourceClaim]
    )
    """Device claims of the pods."""
    termination_grace_period_seconds: Annotated[int, Field(ge=30, le=3600)] = 120
    """Seconds between SIGTERM and SIGKILL: the time for a last checkpoint."""
    shm_size: Quantity | None = None
    """Size of /dev/shm, which counts against the memory limit; sized from the workers when absent."""
