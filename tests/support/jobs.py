"""Builders for what the operator sees: a FineTuneJob's view, its Jobs, its pods."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api import names
from finetune_api.result import Failure, Result
from finetune_operator.observe import ContainerFacts, JobCondition, JobFacts, PodFacts
from finetune_operator.plan.identity import job_label
from finetune_operator.settings import Settings
from finetune_operator.store import Key, Memory
from finetune_operator.view import View

NOON = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
UID = "0a1b2c3d-0000-4000-8000-000000000001"
SETTINGS = Settings()


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, status: str = "True", reason: str = "Because", at: datetime = NOON) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": stamp(at)}


class A:
    """A view in the making: `A().running().job(ready=1).view()`."""

    def __init__(self, **spec: Any):
        self.spec: dict[str, Any] = {
            "task": "text-classification",
            "model": {"uri": "package://m"},
            "data": {"train": {"uri": "pvc://data/train.jsonl"}},
            "output": {"uri": "pvc://models/a"},
            **spec,
        }
        self.status: dict[str, Any] = {}
        self.children: dict[str, JobFacts] = {}
        self.memory = Memory()
        self.now = NOON
        self.more: dict[str, Any] = {}

    def with_status(self, **status: Any) -> "A":
        self.status |= status
        return self

    def running(self, since: datetime = NOON, attempt: int = 1) -> "A":
        conditions = [condition("Accepted"), condition("Running", reason="PodsReady", at=since)]
        return self.with_status(phase="Running", attempt=attempt, startTime=stamp(since), conditions=conditions)

    def finished(self, kind: str = "Complete", at: datetime = NOON) -> "A":
        conditions = [condition("Running", "False"), condition(kind), condition("Finished")]
        return self.with_status(phase=kind, attempt=1, completionTime=stamp(at), conditions=conditions)

    def suspended(self) -> "A":
        conditions = [condition("Running", "False", "Suspended"), condition("Suspended")]
        return self.with_status(phase="Suspended", attempt=1, conditions=conditions)

    def restarting(self, attempt: int = 2, restarts: int = 1, reason: str = "NodeLost") -> "A":
        conditions = [condition("Accepted"), condition("Running", "False", reason)]
        failure = Failure.of(names_reason(reason), "lost").to_dict()
        return self.with_status(
            phase="Restarting",
            attempt=attempt,
            restarts=restarts,
            restartTime=stamp(NOON),
            conditions=conditions,
            failure=failure,
        )

    def job(self, attempt: int = 1, conditions: tuple[str, ...] = (), **changes: Any) -> "A":
        name = names.job_name("a", UID, attempt)
        facts = JobFacts(
            namespace="ml",
            name=name,
            uid=f"job-{attempt}",
            version=1,
            owner_uid=UID,
            attempt=attempt,
            spec_hash="",
            suspended=False,
            nodes=1,
            created_at=NOON,
            started_at=NOON,
            active=1,
            ready=0,
            terminating=0,
            succeeded=0,
            failed=0,
            conditions=tuple(JobCondition(each, "", "", NOON) for each in conditions),
            deleting=False,
            labels={
                names.LABEL_MANAGED_BY: names.MANAGER,
                names.LABEL_JOB: job_label("a"),
                names.LABEL_JOB_UID: UID,
                names.LABEL_ATTEMPT: str(attempt),
            },
        )
        self.children[name] = replace(facts, **changes)
        return self

    def saw(self, purpose: str, *pods: PodFacts, attempt: int = 1, at: datetime = NOON) -> "A":
        self.memory.pods, self.memory.pods_of, self.memory.pods_at = pods, f"job-{attempt}", at
        self.memory.looked[purpose] = at
        return self

    def at(self, now: datetime) -> "A":
        self.now = now
        return self

    def view(self) -> View:
        key = Key("ml", "a")
        return View(key, UID, 1, False, self.spec, self.status, self.children, self.memory, self.now, **self.more)


def names_reason(reason: str):
    from finetune_api.exit_codes import Reason

    return Reason(reason)


def pod(index: int = 0, exit_code: int | None = None, result: Result | None = None, **changes: Any) -> PodFacts:
    message = result.to_json() if result else ""
    state = "running" if exit_code is None else "terminated"
    trainer = ContainerFacts(names.TRAINER_CONTAINER, state, "" if exit_code is None else "Error", message, exit_code)
    phase = {None: "Running", 0: "Succeeded"}.get(exit_code, "Failed")
    facts = PodFacts(f"p-{index}", f"pod-{index}", index, phase, "", "", "node", False, (), (trainer,))
    return replace(facts, **changes)


def failed_pod(reason: str, index: int = 0, message: str = "it broke") -> PodFacts:
    failure = Failure.of(names_reason(reason), message, "mend it", index)
    return pod(index, failure.exit_code, Result(outcome="Failed", failure=failure))


def complete_pod(**metrics: float) -> PodFacts:
    artifact = {"uri": "pvc://models/a", "digest": "0" * 64, "formats": ["adapter"]}
    document = {"outcome": "Complete", "step": 10, "maxSteps": 10, "metrics": metrics, "artifact": artifact}
    return pod(0, 0, Result.from_json(json.dumps(document)))
