"""Facts about a job's children, cut down to what a decision needs.

Pure: from API objects (dicts) to small frozen values. Nothing here is kept up to date; a fact is what was seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from finetune_api.names import ANNOTATION_SPEC_HASH, JOB_INDEX_ANNOTATION, LABEL_ATTEMPT, TRAINER_CONTAINER

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JobCondition:
    """One condition of a batch/v1 Job that is True."""

    type: str
    """Complete, Failed, FailureTarget, SuccessCriteriaMet or Suspended."""
    reason: str
    message: str
    at: datetime | None


@dataclass(frozen=True, slots=True)
class JobFacts:
    """A batch/v1 Job, the gang of one attempt."""

    namespace: str
    name: str
    uid: str
    version: int
    owner_uid: str
    """uid of its controller; empty when it has none."""
    attempt: int
    spec_hash: str
    suspended: bool
    nodes: int
    created_at: datetime
    started_at: datetime | None
    active: int
    ready: int
    terminating: int
    succeeded: int
    failed: int
    conditions: tuple[JobCondition, ...]
    deleting: bool
    labels: Mapping[str, str] = field(default_factory=dict[str, str])

    def condition(self, kind: str) -> JobCondition | None:
        """Return a condition that is True, or None."""
        return next((each for each in self.conditions if each.type == kind), None)

    @property
    def ended(self) -> bool:
        """Whether all pods are gone or terminal: Complete or Failed is True (FailureTarget is not enough)."""
        return any(each.type in {"Complete", "Failed"} for each in self.conditions)


def worth_a_pass(old: JobFacts, new: JobFacts) -> bool:
    """Tell whether an update of a Job can change a decision.

    About half of a Job's updates are its controller's own bookkeeping: it took the Job up, pods are not ready any more,
    a pod was counted. None of these is read by a decision; all that is stands here.
    """
    became_ready = new.ready >= new.nodes and old.ready < old.nodes
    lost_last_pod = old.active > 0 and new.active == 0
    return became_ready or (lost_last_pod and new.suspended) or _decisive(old) != _decisive(new)


def _decisive(job: JobFacts) -> tuple[object, ...]:
    conditions = tuple(each for each in job.conditions if each.type != "SuccessCriteriaMet")
    return (
        job.uid,
        job.suspended,
        job.nodes,
        job.terminating > 0,
        conditions,
        job.deleting,
        job.labels,
        job.spec_hash,
    )


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """One container of a pod."""

    name: str
    state: str
    """waiting, running, terminated, or empty before the kubelet said anything."""
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    signal: int | None = None
    image: str = ""


@dataclass(frozen=True, slots=True)
class PodCondition:
    """One condition of a pod, whatever its status."""

    type: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PodFacts:
    """One pod of a gang."""

    name: str
    uid: str
    index: int
    """Completion index: the node's rank."""
    phase: str
    reason: str
    message: str
    node: str
    deleting: bool
    conditions: tuple[PodCondition, ...]
    containers: tuple[ContainerFacts, ...]
    """Init containers first."""
    memory_limit: str = ""
    """The trainer's memory limit as written, empty for none."""

    @property
    def trainer(self) -> ContainerFacts | None:
        """The container that trains; None before the kubelet reported it."""
        return next((each for each in self.containers if each.name == TRAINER_CONTAINER), None)

    def condition(self, kind: str) -> PodCondition | None:
        """Return a condition, or None."""
        return next((each for each in self.conditions if each.type == kind), None)


def parse_time(text: str | None) -> datetime | None:
    """Return an RFC 3339 time; None for none."""
    return datetime.fromisoformat(text) if text else None


def job_facts(job: Object) -> JobFacts:
    """Return the facts of a batch/v1 Job."""
    metadata, spec, status = job["metadata"], job["spec"], job.get("status", {})
    owners: Sequence[Object] = metadata.get("ownerReferences", ())
    created = parse_time(metadata["creationTimestamp"])
    assert created is not None, "internal: an object of the API server without creationTimestamp"
    labels: Mapping[str, str] = metadata.get("labels") or {}
    attempt = labels.get(LABEL_ATTEMPT, "")
    return JobFacts(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        version=int(metadata["resourceVersion"]),
        owner_uid=next((each["uid"] for each in owners if each.get("controller")), ""),
        attempt=int(attempt) if attempt.isdecimal() else 0,
        spec_hash=(metadata.get("annotations") or {}).get(ANNOTATION_SPEC_HASH, ""),
        suspended=bool(spec.get("suspend")),
        nodes=int(spec.get("completions") or 1),
        created_at=created,
        started_at=parse_time(status.get("startTime")),
        active=status.get("active", 0),
        ready=status.get("ready", 0),
        terminating=status.get("terminating", 0),
        succeeded=status.get("succeeded", 0),
        failed=status.get("failed", 0),
        conditions=tuple(
            JobCondition(
                each["type"],
                each.get("reason", ""),
                each.get("message", ""),
                parse_time(each.get("lastTransitionTime")),
            )
            for each in status.get("conditions") or ()
            if each["status"] == "True"
        ),
        deleting="deletionTimestamp" in metadata,
        labels=labels,
    )


def pod_facts(pod: Object) -> PodFacts:
    """Return the facts of a pod."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
    index = (metadata.get("annotations") or {}).get(JOB_INDEX_ANNOTATION, "0")
    statuses = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    limits = next(
        (
            each.get("resources", {}).get("limits", {})
            for each in spec["containers"]
            if each["name"] == TRAINER_CONTAINER
        ),
        {},
    )
    return PodFacts(
        name=metadata["name"],
        uid=metadata["uid"],
        index=int(index),
        phase=status.get("phase", "Pending"),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        node=spec.get("nodeName", ""),
        deleting="deletionTimestamp" in metadata,
        conditions=tuple(
            PodCondition(each["type"], each["status"], each.get("reason", ""), each.get("message", ""))
            for each in status.get("conditions") or ()
        ),
        containers=tuple(_container(each) for each in statuses),
        memory_limit=str(limits.get("memory", "")),
    )


def _container(status: Object) -> ContainerFacts:
    state: Object = status.get("state") or {}
    kind = next(iter(state), "")
    detail: Object = state.get(kind) or {}
    return ContainerFacts(
        name=status["name"],
        state=kind,
        reason=detail.get("reason", ""),
        message=detail.get("message", ""),
        exit_code=detail.get("exitCode"),
        signal=detail.get("signal"),
        image=status.get("image", ""),
    )
