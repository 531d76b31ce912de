"""Whose children they are: labels, owner, and the hash of the spec that they were made from."""

import hashlib
from typing import Any

from finetune_api import names
from finetune_api.base import canonical_json
from finetune_api.spec import FineTuneJob, FineTuneJobSpec

LabelMap = dict[str, str]

_MAX_LABEL = 63
_LABEL_HASH = 10
# What may change while an attempt runs, and changes nothing about its pods.
_FREE: frozenset[str] = frozenset(
    {"suspend", "active_deadline_seconds", "pending_deadline_seconds", "ttl_seconds_after_finished", "restarts"}
)
_SHAPING: set[str] = set(FineTuneJobSpec.model_fields) - _FREE


def job_label(name: str) -> str:
    """Return a FineTuneJob's name as a label value: itself, or a readable head and a hash when it is too long."""
    if len(name) <= _MAX_LABEL:
        return name
    head = name[: _MAX_LABEL - _LABEL_HASH - 1].rstrip("-.")
    return f"{head}-{hashlib.sha256(name.encode()).hexdigest()[:_LABEL_HASH]}"


def child_labels(job: FineTuneJob, attempt: int | None = None) -> LabelMap:
    """Return the labels that every child carries.

    Args:
        job: The owner.
        attempt: Whose child it is; None for one that all attempts share.

    Returns:
        A new map.
    """
    labels = {
        names.LABEL_MANAGED_BY: names.MANAGER,
        names.LABEL_JOB: job_label(job.metadata.name),
        names.LABEL_JOB_UID: job.metadata.uid,
        names.LABEL_TASK: job.spec.task,
    }
    if attempt is not None:
        labels[names.LABEL_ATTEMPT] = str(attempt)
    return labels


def owner_references(job: FineTuneJob) -> list[dict[str, Any]]:
    """Return the one owner of a child: deleting the FineTuneJob deletes it."""
    return [
        {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "name": job.metadata.name,
            "uid": job.metadata.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


def spec_hash(job: FineTuneJob) -> str:
    """Return 16 hexadecimal digits over the part of the spec that shapes the children.

    Fields at their default are left out, so an operator that knows a new optional field still recognises its Jobs.
    """
    shaping = job.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=_SHAPING)
    return hashlib.sha256(canonical_json(shaping).encode()).hexdigest()[:16]
