"""From a FineTuneJob to the objects that train it: one Job per attempt, its Service, and the claim of the work volume.

Pure: same job, same attempt, same settings, same objects. One child kind per file. Whether they exist, and what becomes
of them, is decided elsewhere.
"""

from dataclasses import dataclass
from typing import Any

from finetune_api.spec import FineTuneJob
from finetune_operator.plan.claim import claim_of
from finetune_operator.plan.identity import job_label, spec_hash
from finetune_operator.plan.job import job_of
from finetune_operator.plan.service import service_of
from finetune_operator.plan.shape import Attempt, shape_of
from finetune_operator.plan.unsupported import unsupported
from finetune_operator.settings import Settings

__all__ = ["Attempt", "Plan", "job_label", "plan", "spec_hash", "unsupported"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The children of one attempt as API objects. Plans share their constant parts: send them, do not change them."""

    job: dict[str, Any]
    """batch/v1 Job."""
    service: dict[str, Any] | None
    """Headless Service; None for one node."""
    claim: dict[str, Any] | None
    """PersistentVolumeClaim; None when the manifest names one, or keeps nothing."""


def plan(job: FineTuneJob, attempt: Attempt, settings: Settings) -> Plan:
    """Return the children of an attempt.

    Args:
        job: A job of which `unsupported` finds nothing.
        attempt: Which try this is.
        settings: What the administrator decided.

    Returns:
        The objects; service and claim must exist before the job's pods can start, and may be posted after it.
    """
    shape = shape_of(job, attempt, settings)
    return Plan(job_of(shape), service_of(shape), claim_of(shape))
