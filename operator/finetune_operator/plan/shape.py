"""What is derived once from a job, its attempt and the settings, and used by several child objects."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api import names
from finetune_api.spec import FineTuneJob
from finetune_operator.plan.addresses import claims_of, has_hub_address
from finetune_operator.plan.identity import LabelMap, child_labels, owner_references
from finetune_operator.plan.resources import processes_per_node
from finetune_operator.settings import Settings


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a job."""

    number: int
    """Counted from 1."""
    micro_batch: int | None = None
    """Samples per process and pass, after a device ran out of memory; measured when None."""
    suspended: bool = False
    """Whether its pods must wait."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The names and numbers of one attempt's children."""

    job: FineTuneJob
    attempt: Attempt
    settings: Settings
    name: str
    """Name of the batch Job."""
    claim_name: str
    """Claim of the work volume; empty when it lives as long as the pod."""
    labels: LabelMap
    owners: list[dict[str, Any]]
    nodes: int
    processes_per_node: int
    claims: Mapping[str, bool]
    """Claims that pvc:// addresses name, and whether each is written to."""
    fetches: bool
    """Whether hf:// addresses must be fetched before the ranks start."""

    @property
    def service_name(self) -> str:
        """The headless Service through which the nodes find each other; empty for one node."""
        return names.service_name(self.name) if self.nodes > 1 else ""

    def metadata(self, name: str) -> dict[str, Any]:
        """Return the metadata of a child of this attempt."""
        return {
            "name": name,
            "namespace": self.job.metadata.namespace,
            "labels": self.labels,
            "ownerReferences": self.owners,
        }


def shape_of(job: FineTuneJob, attempt: Attempt, settings: Settings) -> Shape:
    """Derive the names and numbers of an attempt's children."""
    metadata, spec = job.metadata, job.spec
    assert metadata.uid, "internal: a job without uid owns nothing"
    assert attempt.number >= 1, "internal: attempts are counted from 1"
    return Shape(
        job=job,
        attempt=attempt,
        settings=settings,
        name=names.job_name(metadata.name, metadata.uid, attempt.number),
        claim_name="" if spec.storage.ephemeral else spec.storage.claim_name or own_claim_name(job),
        labels=child_labels(job, attempt.number),
        owners=owner_references(job),
        nodes=spec.workers.nodes,
        processes_per_node=processes_per_node(spec.workers, settings.gpu_resources),
        claims=claims_of(spec),
        fetches=has_hub_address(spec),
    )


def own_claim_name(job: FineTuneJob) -> str:
    """Return the name of the claim that is made for a job; every attempt uses the same one.

    Attempt 0 never runs, so no Job has this name.
    """
    return names.job_name(job.metadata.name, job.metadata.uid, 0)
