"""What Kueue says of a Job's Workload, mirrored: whether it is admitted, and why not yet. Pure.

Nothing of Kueue's is ever written; its Workload is found by the Job that owns it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from finetune_operator.status import ConditionStatus

KUEUE_GROUP: Final = "kueue.x-k8s.io"
_TOLD: Final = ("Admitted", "Evicted", "QuotaReserved")


@dataclass(frozen=True, slots=True)
class Admission:
    """The admission of one Job."""

    status: ConditionStatus
    reason: str
    message: str


def admission_of(workload: Mapping[str, Any]) -> tuple[str, str, Admission]:
    """Return uid and name of the owning Job, empty for none, and its admission.

    Admitted decides; while it is not there, the first of Kueue's other conditions that is told explains the wait.
    """
    owners = workload["metadata"].get("ownerReferences") or ()
    owner: Mapping[str, str] = next((each for each in owners if each["kind"] == "Job"), {})
    conditions = {each["type"]: each for each in (workload.get("status") or {}).get("conditions") or ()}
    admitted = conditions.get("Admitted", {}).get("status") == "True"
    told = next((conditions[kind] for kind in _TOLD if kind in conditions), {})
    admission = Admission("True" if admitted else "False", told.get("reason", "Pending"), told.get("message", ""))
    return owner.get("uid", ""), owner.get("name", ""), admission
