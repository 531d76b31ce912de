"""A pod's affinity, field by field as in core/v1: a misspelt or endless one is refused, not carried along."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Contract, DnsLabel, LabelValue, QualifiedName

_Some = Field(max_length=8)
Weight = Annotated[int, Field(ge=1, le=100)]
LabelKeys = Annotated[list[QualifiedName], _Some]


class NodeRequirement(Contract):
    """What one label, or field, of a machine must be."""

    key: QualifiedName
    """Key of the label; metadata.name in matchFields."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """How it is compared with the values."""
    values: Annotated[list[LabelValue], Field(max_length=16)] | None = None
    """Values to compare with; one whole number for Gt and Lt, none for Exists and DoesNotExist."""


class NodeTerm(Contract):
    """Requirements that a machine meets all at once."""

    match_expressions: Annotated[list[NodeRequirement], _Some] | None = None
    """Requirements on labels."""
    match_fields: Annotated[list[NodeRequirement], _Some] | None = None
    """Requirements on fields."""


class NodeTerms(Contract):
    """Machines of which one term is true."""

    node_selector_terms: Annotated[list[NodeTerm], Field(min_length=1, max_length=8)]
    """The terms."""


class PreferredNode(Contract):
    """A term that counts for a machine."""

    weight: Weight
    """What it adds to a machine's score."""
    preference: NodeTerm
    """The term."""


class NodeAffinity(Contract):
    """Which machines the pods may, or would rather, run on."""

    required_during_scheduling_ignored_during_execution: NodeTerms | None = None
    """Machines outside these terms are never taken."""
    preferred_during_scheduling_ignored_during_execution: Annotated[list[PreferredNode], _Some] | None = None
    """Terms that make a machine better."""


class LabelRequirement(Contract):
    """What one label of an object must be."""

    key: QualifiedName
    """Key of the label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How it is compared with the values."""
    values: Annotated[list[LabelValue], Field(max_length=16)] | None = None
    """Values to compare with; none for Exists and DoesNotExist."""


class LabelSelector(Contract):
    """Objects whose labels meet everything that is said; an empty one means all."""

    match_labels: Annotated[dict[QualifiedName, LabelValue], _Some] | None = None
    """Labels with exactly these values."""
    match_expressions: Annotated[list[LabelRequirement], _Some] | None = None
    """Requirements on labels."""


class PodTerm(Contract):
    """Pods to be near to, or away from."""

    label_selector: LabelSelector | None = None
    """Which pods; none when absent."""
    namespaces: Annotated[list[DnsLabel], _Some] | None = None
    """Namespaces to look in; the job's own when absent."""
    namespace_selector: LabelSelector | None = None
    """Namespaces to look in, by their labels."""
    topology_key: QualifiedName
    """Label of machines that makes two of them the same place, such as kubernetes.io/hostname."""
    match_label_keys: LabelKeys | None = None
    """Labels that must have the incoming pod's own values."""
    mismatch_label_keys: LabelKeys | None = None
    """Labels that must not have the incoming pod's own values."""


class PreferredPods(Contract):
    """A term that counts for a machine."""

    weight: Weight
    """What it adds to a machine's score."""
    pod_affinity_term: PodTerm
    """The term."""


class PodAffinity(Contract):
    """Which pods to be near to, or away from."""

    required_during_scheduling_ignored_during_execution: Annotated[list[PodTerm], _Some] | None = None
    """Terms that always hold."""
    preferred_during_scheduling_ignored_during_execution: Annotated[list[PreferredPods], _Some] | None = None
    """Terms that make a machine better."""


class Affinity(Contract):
    """Where the pods run in relation to machines and to other pods."""

    node_affinity: NodeAffinity | None = None
    """In relation to machines."""
    pod_affinity: PodAffinity | None = None
    """Near to other pods."""
    pod_anti_affinity: PodAffinity | None = None
    """Away from other pods."""
