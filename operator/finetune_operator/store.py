"""What the operator knows: the FineTuneJobs and their Jobs as last seen, and what cannot be read back from either.

Only newer versions are taken, so replayed, late and out-of-order events change nothing. Our own writes are put in as
their answers arrive; a watch that is behind cannot undo them. A spec is kept as JSON text: 10,000 parsed ones would
need 80 MiB.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import orjson

from finetune_operator.observe import JobFacts, PodFacts, worth_a_pass
from finetune_operator.report import Report

if TYPE_CHECKING:
    from finetune_operator.admission import Admission

Purpose = Literal["pending", "terminating", "failing", "ended"]
_ENDED = 10_000
"""Deleted jobs whose late events are still known as such."""
_FINISHED_PHASES = frozenset({"Complete", "Failed"})


class Key(NamedTuple):
    """Which FineTuneJob."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Record:
    """One FineTuneJob as last seen."""

    key: Key
    uid: str
    version: int
    generation: int
    deleting: bool
    phase: str
    text: bytes
    """spec, status and the metadata that a manifest may carry, as JSON."""

    @property
    def finished(self) -> bool:
        """Whether the status says that it is over."""
        return self.phase in _FINISHED_PHASES

    def manifest(self) -> dict[str, Any]:
        """Return the object: metadata, spec and status."""
        found: dict[str, Any] = orjson.loads(self.text)
        return found


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why the API server does not take an attempt's children, and since when."""

    reason: str
    message: str
    tries: int
    until: datetime


@dataclass(slots=True)
class Memory:
    """What was seen of one job that no list of objects gives back; losing it costs detail, never correctness."""

    pods: tuple[PodFacts, ...] = ()
    """Pods of `pods_of` as last listed, and those of earlier lists that are gone."""
    pods_of: str = ""
    """uid of the Job whose pods they are."""
    pods_at: datetime | None = None
    looked: dict[Purpose, datetime] = field(default_factory=dict["Purpose", datetime])
    """When pods of that Job were first listed, by what for."""
    lost: str = ""
    """Name of the Job that went away last; empty once it is there again."""
    refusal: str = ""
    """What the API server said when it refused the pods of a Job that has none; empty when it has some."""
    blocked: Blocked | None = None
    heartbeat_at: datetime | None = None
    report: Report = field(default_factory=Report)
    """What the trainer told."""
    written_at: float = 0.0
    """Monotonic time of the last status write."""


def record_of(body: Mapping[str, Any]) -> Record:
    """Return the record of a FineTuneJob."""
    metadata: Mapping[str, Any] = body["metadata"]
    status: Mapping[str, Any] = body.get("status") or {}
    kept = {name: metadata[name] for name in ("name", "namespace", "uid", "labels") if name in metadata}
    document = {
        "apiVersion": body.get("apiVersion", ""),
        "kind": body.get("kind", ""),
        "metadata": kept,
        "spec": body.get("spec", {}),
        "status": status,
    }
    return Record(
        key=Key(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        version=int(metadata["resourceVersion"]),
        generation=metadata.get("generation", 0),
        deleting="deletionTimestamp" in metadata,
        phase=status.get("phase", ""),
        # A copy of the right size: orjson's own keeps what it reserved, three times as much.
        text=bytes(memoryview(orjson.dumps(document))),
    )


class Store:
    """Everything that was seen. Not thread-safe: it lives in the main loop."""

    def __init__(self) -> None:
        """Start empty."""
        self.records: dict[Key, Record] = {}
        self.phases: Counter[str] = Counter()
        """How many jobs are in each phase."""
        self._children: dict[str, dict[str, JobFacts]] = {}
        self._keys: dict[str, Key] = {}
        self._memories: dict[str, Memory] = {}
        self._owners: dict[tuple[str, str], str] = {}
        self.admissions: dict[str, Admission] = {}
        """What Kueue says, by the uid of the Job."""
        self._vanished: set[str] = set()
        self._ended: OrderedDict[str, int] = OrderedDict()

    def memory(self, uid: str) -> Memory:
        """Return what is remembered of a job."""
        found = self._memories.get(uid)
        if found is None:
            found = self._memories[uid] = Memory()
        return found

    def children(self, uid: str) -> Mapping[str, JobFacts]:
        """Return a job's Jobs by name."""
        return self._children.get(uid, {})

    def key_of(self, uid: str) -> Key | None:
        """Return which job a uid belongs to; None before it was seen or after it was purged."""
        return self._keys.get(uid)

    def owner_of(self, namespace: str, job: str) -> str:
        """Return the uid of the FineTuneJob that a Job belongs to, empty when the Job is not known."""
        return self._owners.get((namespace, job), "")

    def put(self, record: Record) -> bool:
        """Take a newer version of a job; return whether it was newer."""
        known = self.records.get(record.key)
        if known is not None and known.uid == record.uid and known.version >= record.version:
            return False
        if record.version <= self._ended.get(record.uid, 0):
            return False
        if known is not None and known.uid != record.uid:
            if known.version > record.version:
                return False
            self._forget(known)
        if known is not None:
            self.phases[known.phase] -= 1
        self.phases[record.phase] += 1
        self.records[record.key] = record
        self._keys[record.uid] = record.key
        return True

    def remove(self, key: Key, uid: str, version: int) -> bool:
        """Drop a deleted job, unless a newer one has its name; return whether it was there."""
        known = self.records.get(key)
        if known is None or known.uid != uid:
            return False
        self._forget(known)
        # A late event of a deleted object must not bring it back, and a watch can be behind many deletions.
        self._ended[uid] = max(version, known.version)
        if len(self._ended) > _ENDED:
            self._ended.popitem(last=False)
        del self.records[key]
        self.phases[known.phase] -= 1
        return True

    def put_job(self, facts: JobFacts) -> bool:
        """Take a newer version of a Job; return whether its owner's next decision may be another one."""
        jobs = self._children.setdefault(facts.owner_uid, {})
        known = jobs.get(facts.name)
        if known is not None and known.version >= facts.version:
            return False
        jobs[facts.name] = facts
        self._owners[facts.namespace, facts.name] = facts.owner_uid
        memory = self._memories.get(facts.owner_uid)
        if memory is not None and memory.lost == facts.name:
            memory.lost = ""
        return known is None or worth_a_pass(known, facts)

    def remove_job(self, facts: JobFacts) -> bool:
        """Drop a deleted Job, unless it was made anew; return whether it was there."""
        jobs = self._children.get(facts.owner_uid, {})
        known = jobs.get(facts.name)
        if known is None or known.uid != facts.uid:
            return False
        del jobs[facts.name]
        if not jobs:
            del self._children[facts.owner_uid]
        self._owners.pop((facts.namespace, facts.name), None)
        if facts.owner_uid in self._keys:
            self._vanished.add(facts.owner_uid)
            self.memory(facts.owner_uid).lost = facts.name
        return True

    def vanished(self, uid: str) -> bool:
        """Tell whether a Job of this job went away since `settle`; then its owner may be gone too."""
        return uid in self._vanished

    def settle(self, uid: str) -> None:
        """Note that what vanished was dealt with."""
        self._vanished.discard(uid)

    def purge(self, namespace: str, listed: AbstractSet[str], version: int) -> Iterator[Key]:
        """Drop what a whole list lacks; yield the keys that are gone.

        Args:
            namespace: What was listed; empty for all namespaces.
            listed: The uids of the list.
            version: Of the list; a record that is newer stays.

        Yields:
            Key: What is gone.
        """
        held = [each for each in self.records.values() if not namespace or each.key.namespace == namespace]
        for ghost in held:
            if ghost.uid not in listed and ghost.version <= version and self.remove(ghost.key, ghost.uid, version):
                yield ghost.key

    def replace_jobs(self, jobs: Iterable[JobFacts], version: int) -> Iterator[str]:
        """Take a whole list of Jobs; yield the owners' uids that changed."""
        seen: set[str] = set()
        for facts in jobs:
            seen.add(facts.uid)
            if self.put_job(facts):
                yield facts.owner_uid
        held = [facts for found in self._children.values() for facts in found.values()]
        for ghost in held:
            if ghost.uid not in seen and ghost.version <= version:
                self.remove_job(ghost)
                yield ghost.owner_uid

    def see_pods(self, uid: str, job: JobFacts, pods: tuple[PodFacts, ...], purpose: Purpose, now: datetime) -> None:
        """Remember pods; evidence that is gone from a later list (an evicted pod lives 0.5 s) is kept.

        Args:
            uid: The FineTuneJob's uid.
            job: The Job whose pods they are.
            pods: What was listed.
            purpose: What they were listed for.
            now: The API server's time.
        """
        memory = self.memory(uid)
        if memory.pods_of != job.uid:
            memory.pods, memory.pods_of, memory.looked = (), job.uid, {}
        listed = {each.name for each in pods}
        memory.pods = (*pods, *(replace(each, deleting=True) for each in memory.pods if each.name not in listed))
        memory.pods_at = now
        memory.looked.setdefault(purpose, now)

    def _forget(self, record: Record) -> None:
        self._keys.pop(record.uid, None)
        self._memories.pop(record.uid, None)
        for facts in self._children.pop(record.uid, {}).values():
            self._owners.pop((facts.namespace, facts.name), None)
        self._vanished.discard(record.uid)
