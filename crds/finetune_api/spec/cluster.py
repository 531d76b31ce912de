"""How many workers, on which machines, with which disks and secrets. A run on this machine uses `workers` alone."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Contract, DnsLabel, DnsName, Labels, LabelValue, QualifiedName, Quantity
from finetune_api.spec.affinity import Affinity

Quantities = Annotated[dict[QualifiedName, Quantity], Field(max_length=32)]
ControllerName = Annotated[
    str, Field(max_length=63, pattern=r"^[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9](?:[-A-Za-z0-9_./]*[A-Za-z0-9])?$")
]
SecretKeyName = Annotated[str, Field(max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]


class Resources(Contract):
    """Kubernetes resources of one node's trainer."""

    limits: Quantities = Field(default_factory=dict)
    """Most that one node's trainer may use; GPUs by their resource name, such as nvidia.com/gpu."""
    requests: Quantities = Field(default_factory=dict)
    """What the scheduler sets aside; cpu and memory are defaulted."""


class Workers(Contract):
    """The processes that train together."""

    nodes: Annotated[int, Field(ge=1, le=512)] = 1
    """Pods, each on a machine of its choice; 1 for a run on this machine."""
    processes_per_node: Annotated[int, Field(ge=1, le=64)] | None = None
    """Training processes per node; one per GPU, else 1, when absent. The result does not depend on it beyond
    rounding."""
    resources: Resources = Field(default_factory=Resources)
    """Resources of one node's trainer."""


class Toleration(Contract):
    """A taint that the pods accept; as in a pod's spec."""

    key: QualifiedName | None = None
    """Key of the taint; every one with operator Exists when absent."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How key and value are compared."""
    value: LabelValue | None = None
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; every effect when absent."""
    toleration_seconds: Annotated[int, Field(ge=0, le=31536000)] | None = None
    """Seconds until an eviction by NoExecute; never when absent."""


class Scheduling(Contract):
    """On which machines, and in which queue, the pods wait."""

    queue: DnsLabel | None = None
    """Kueue LocalQueue that admits the job."""
    managed_by: ControllerName | None = None
    """Controller of the Jobs in place of Kubernetes' own, such as kueue.x-k8s.io/multikueue; passed through."""
    priority_class_name: DnsName | None = None
    """Kubernetes PriorityClass of the pods."""
    node_selector: Labels = Field(default_factory=dict)
    """Labels that a machine must carry."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = Field(default_factory=list[Toleration])
    """Taints that the pods accept."""
    affinity: Affinity | None = None
    """Where the pods run in relation to machines and to other pods, as in a pod's spec."""


class Storage(Contract):
    """The work volume: checkpoints and caches. A claim of its own of 20Gi when nothing is said."""

    size: Quantity | None = None
    """Size of the claim that is made for this job and deleted with it; 20Gi when absent. Excludes claimName."""
    storage_class_name: DnsName | None = None
    """StorageClass of that claim; the cluster's default when absent. Excludes claimName."""
    claim_name: DnsName | None = None
    """An existing claim to use, in a folder of its own; it is left in place afterwards."""
    ephemeral: bool = False
    """Keep nothing beyond the pod: a restart begins at step 0. One node only."""


class SecretKey(Contract):
    """One key of a Secret in the job's namespace; the operator passes the name on and never reads it."""

    name: DnsName
    """Name of the Secret."""
    key: SecretKeyName
    """Key inside the Secret."""


class SecretName(Contract):
    """A Secret in the job's namespace; the operator passes the name on and never reads it."""

    name: DnsName
    """Name of the Secret."""


class Secrets(Contract):
    """Names of the Secrets that the addresses need."""

    hugging_face: SecretKey | None = None
    """Token for hf:// addresses."""
    s3: SecretName | None = None
    """Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if wanted, AWS_ENDPOINT_URL and AWS_REGION."""
    gs: SecretKey | None = None
    """Service-account key file for gs:// addresses."""
    wandb: SecretKey | None = None
    """API key for tracking with wandb."""


class Restarts(Contract):
    """How often a stop that is not the user's to fix is followed by a new attempt."""

    limit: Annotated[int, Field(ge=0, le=1000)] = 5
    """New attempts before the job is Failed with RestartLimitExceeded; preemption and eviction are not counted."""


class PodResourceClaim(Contract):
    """A claim for devices (dynamic resource allocation) that the pods use."""

    name: DnsLabel
    """Name of the claim inside the pod."""
    resource_claim_name: DnsName | None = None
    """An existing ResourceClaim."""
    resource_claim_template_name: DnsName | None = None
    """A ResourceClaimTemplate; one claim is made per pod."""
