"""What is known of one job at one moment, and what was decided about it: the two values that the rules work on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from finetune_api.validation import Problem
from finetune_operator.admission import Admission
from finetune_operator.observe import JobFacts, PodFacts
from finetune_operator.status import Draft, rfc3339
from finetune_operator.store import Key, Memory, Purpose


@dataclass(frozen=True, slots=True)
class View:
    """All that is known of one job at one moment."""

    key: Key
    uid: str
    generation: int
    deleting: bool
    spec: Mapping[str, Any]
    status: Mapping[str, Any]
    children: Mapping[str, JobFacts]
    memory: Memory
    now: datetime
    problems: tuple[Problem, ...] = ()
    admissions: Mapping[str, Admission] = field(default_factory=dict[str, Admission])
    """What Kueue says, by the uid of the Job."""
    version: int = 0
    """Version of the object that status is of; a write onto any other is refused."""
    confirmed_missing: bool = False
    """Whether the API server itself said that the attempt's Job does not exist."""
    look_again_s: float = 60.0
    """How old a list of pods that wait may grow."""
    spec_hash: str = ""
    """Hash of a spec that was edited since the last status; empty for one that was not."""

    @property
    def queue(self) -> str:
        """The Kueue queue, empty for none."""
        return (self.spec.get("scheduling") or {}).get("queue", "")

    @property
    def suspend(self) -> bool:
        """Whether the user wants it stopped."""
        return self.spec.get("suspend") is True

    def pods(self, job: JobFacts) -> tuple[PodFacts, ...]:
        """Return the pods that were seen of a Job."""
        return self.memory.pods if self.memory.pods_of == job.uid else ()

    def looked_at(self, job: JobFacts, purpose: Purpose) -> datetime | None:
        """Return when the pods of a Job were first listed for a purpose; None when they were not."""
        return self.memory.looked.get(purpose) if self.memory.pods_of == job.uid else None

    @property
    def last_sign(self) -> str:
        """When the trainer was last heard of, RFC 3339; empty for never."""
        at = self.memory.heartbeat_at
        return "" if at is None else rfc3339(at)


@dataclass(slots=True)
class Decision:
    """What to do, and the status that is true once it is done."""

    draft: Draft
    create: int | None = None
    """Attempt whose children are to be made."""
    suspend: tuple[JobFacts, bool] | None = None
    """Job to suspend (True) or resume."""
    delete: list[JobFacts] = field(default_factory=list[JobFacts])
    relabel: tuple[JobFacts, dict[str, str]] | None = None
    delete_self: bool = False
    look: tuple[JobFacts, Purpose] | None = None
    """Job whose pods must be listed before this can be decided, and what for; decide again with them."""
    confirm_missing: bool = False
    """The attempt's Job seems to be gone: ask the API server before anything follows from it."""
    wake_at: datetime | None = None
    events: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    """Type, reason and message of Kubernetes events."""

    def wake(self, at: datetime) -> None:
        """Look again at this time at the latest."""
        self.wake_at = at if self.wake_at is None else min(self.wake_at, at)
