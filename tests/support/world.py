"""One operator in one namespace of a real control plane, with a proxy before it and a kubelet beside it."""

import copy
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from finetune_api import names
from finetune_api.result import Failure, Result
from support.accounts import await_namespace, grant_operator
from support.faults import Request
from support.gang import Kubelet
from support.operator_process import OperatorProcess
from support.proxy import FaultProxy
from support.waiting import await_that

Object = dict[str, Any]
# Times of the tests: as in a cluster, but shorter.
FAST = (
    "--pending-look-s=1",
    "--restart-backoff-s=0.5",
    "--restart-backoff-limit-s=2",
    "--node-lost-s=6",
    "--image-pull-s=3",
    "--refused-limit-s=2",
    "--stale-after-s=3",
    "--relist-every-s=600",
    "--progress-every-s=0.2",
)
SPEC: Object = {
    "task": "text-classification",
    "model": {"uri": "package://a_model"},
    "data": {"train": {"uri": "pvc://corpus/train.jsonl"}},
    "output": {"uri": "pvc://models/out"},
    "storage": {"ephemeral": True},
}


class World:
    """A namespace with everything in it; a context manager."""

    def __init__(self, cluster: Any, namespace: str, folder: Path, *, flags: tuple[str, ...] = ()):
        self.cluster, self.namespace = cluster, namespace
        self.api: httpx.Client = cluster.client()
        await_namespace(self.api, namespace)
        self.proxy = FaultProxy(cluster.url, str(cluster.ca_file))
        self.kubelet = Kubelet(cluster.client, namespace)
        self._token = grant_operator(cluster)
        self._folder, self._flags = folder, (*FAST, *flags)

    def __enter__(self) -> Self:
        self.proxy.__enter__()
        self.kubelet.__enter__()
        self.operator = self.another_operator("operator")
        return self

    def __exit__(self, *error: object) -> None:
        self.operator.kill()
        self.kubelet.__exit__(*error)
        self.proxy.__exit__(*error)
        self.api.close()

    def another_operator(self, name: str, *, flags: tuple[str, ...] = (), direct: bool = False) -> OperatorProcess:
        """Return an operator that is not started yet; through the proxy unless `direct`."""
        url = self.cluster.url if direct else self.proxy.url
        ca = str(self.cluster.ca_file) if direct else ""
        every = (*self._flags, *flags)
        return OperatorProcess(url, self._token, self._folder / name, (self.namespace,), ca_file=ca, flags=every)

    # What a user does.

    def apply(self, name: str = "a", **spec: Any) -> Object:
        body = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": name}}
        return self._ok(self.api.post(self.url("ftj"), json={**body, "spec": copy.deepcopy(SPEC) | spec}))

    def edit(self, name: str, spec: Mapping[str, Any]) -> Object:
        return self._ok(self.api.patch(self.url("ftj", name), json={"spec": spec}, headers=MERGE))

    def delete(self, name: str = "a") -> None:
        self._ok(self.api.delete(self.url("ftj", name)))

    # What can be seen.

    def job(self, name: str = "a") -> Object:
        """Return the FineTuneJob."""
        return self._ok(self.api.get(self.url("ftj", name)))

    def status(self, name: str = "a") -> Object:
        return self.job(name).get("status") or {}

    def condition(self, kind: str, name: str = "a") -> Object:
        found = self.status(name).get("conditions", [])
        return next((each for each in found if each["type"] == kind), {})

    def children(self, name: str | None = "a") -> list[Object]:
        """Return the batch Jobs of one FineTuneJob, or of all, oldest attempt first."""
        params = {"labelSelector": f"{names.LABEL_JOB}={name}"} if name else {}
        found = self._ok(self.api.get(self.url("jobs"), params=params))["items"]
        return sorted(found, key=lambda job: int(job["metadata"]["labels"].get(names.LABEL_ATTEMPT, 0)))

    def child_name(self, name: str = "a", attempt: int = 1) -> str:
        return names.job_name(name, self.job(name)["metadata"]["uid"], attempt)

    def event_reasons(self) -> list[str]:
        return [each["reason"] for each in self._ok(self.api.get(self.url("events")))["items"]]

    # Waiting.

    def await_child(self, name: str = "a", attempt: int = 1) -> str:
        """Wait for an attempt's Job and return its name."""
        child = self.child_name(name, attempt)
        await_that(lambda: self.api.get(self.url("jobs", child)).status_code == httpx.codes.OK, f"Job {child}")
        return child

    def await_phase(self, phase: str, name: str = "a") -> Object:
        """Wait for a phase and return the status."""

        def reached() -> Object | None:
            status = self.status(name)
            return status if status.get("phase") == phase else None

        return await_that(reached, f"phase {phase} of {name}, now {self.status(name)}")

    def await_condition(self, kind: str, status: str, reason: str = "", name: str = "a") -> Object:
        def reached() -> Object | None:
            found = self.condition(kind, name)
            return found if found.get("status") == status and reason in {"", found.get("reason")} else None

        return await_that(reached, f"{kind}={status} {reason} of {name}, now {self.status(name)}")

    def run(self, name: str = "a", attempt: int = 1) -> str:
        """Let an attempt's pods start; return the Job's name."""
        child = self.await_child(name, attempt)
        self.kubelet.run(child, self._ok(self.api.get(self.url("jobs", child)))["spec"]["completions"])
        self.await_phase("Running", name)
        return child

    def settle(self, quiet_s: float = 1.0) -> None:
        """Wait until the operator has sent nothing for a while."""

        def quiet() -> bool:
            return not self.proxy.requests or time.monotonic() - self._last_request().at >= quiet_s

        await_that(quiet, "an operator that falls silent")

    def start_watching(self) -> None:
        """Start the operator and wait until it watches."""
        self.operator.start()
        await_that(lambda: {each.resource for each in self.proxy.open_watches} == set(WATCHED), "both watches")

    def writes_during(self, seconds: float) -> list[Request]:
        """Return what the operator writes in a span of time."""
        before = len(self.proxy.writes)
        time.sleep(seconds)
        return self.proxy.writes[before:]

    def url(self, plural: str, name: str = "") -> str:
        root = {"ftj": f"/apis/{names.API_VERSION}", "jobs": "/apis/batch/v1"}.get(plural, "/api/v1")
        kind = names.PLURAL if plural == "ftj" else plural
        return f"{root}/namespaces/{self.namespace}/{kind}" + (f"/{name}" if name else "")

    def _last_request(self) -> Request:
        return [each for each in self.proxy.requests if not each.is_watch][-1]

    @staticmethod
    def _ok(answer: httpx.Response) -> Object:
        assert answer.is_success, answer.text
        return answer.json()


WATCHED = ("finetunejobs", "jobs")
"""What an operator watches wherever it runs."""
MERGE = {"Content-Type": "application/merge-patch+json"}


def complete_message(**metrics: float) -> str:
    """Return the termination message of a trainer that is done."""
    return Result(outcome="Complete", step=10, max_steps=10, metrics=metrics or {"accuracy": 0.9}).to_json()


def failure_message(reason: Any, message: str = "it broke", rank: int = 0) -> str:
    """Return the termination message of a trainer that failed."""
    return Result(outcome="Failed", failure=Failure.of(reason, message, "mend it", rank)).to_json()


def truth(world: World, name: str = "a") -> Object:
    """Return what must be the same whatever was interrupted: the status without its times and versions, the Jobs."""
    status = world.status(name)
    conditions = {each["type"]: (each["status"], each["reason"]) for each in status.get("conditions", [])}
    keep = ("phase", "attempt", "restarts", "result", "resolved")
    failure = status.get("failure") or {}
    jobs = [int(each["metadata"]["labels"][names.LABEL_ATTEMPT]) for each in world.children(name)]
    return {
        "conditions": conditions,
        "jobs": jobs,
        # The message names the pod, whose name is drawn anew.
        "failure": {key: value for key, value in failure.items() if key != "message"},
        **{key: status.get(key) for key in keep},
    }


Story = Callable[[World], None]
