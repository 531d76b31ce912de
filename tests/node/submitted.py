"""A job that was applied: what a user sees of it, and its processes on the node."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from finetune_api.names import EVENTS_FILE, LABEL_JOB, PLURAL, TRAINER_CONTAINER
from finetune_api.progress import ProgressEvent
from finetune_api.result import Result
from support.waiting import await_that

if TYPE_CHECKING:
    from node.world import World

TRAINING: Final = "training"
PATIENCE_S: Final = 420.0
Objects = list[dict[str, Any]]


class Submitted:
    """A job that was applied."""

    def __init__(self, world: "World", name: str) -> None:
        """Remember its name."""
        self.world, self.name = world, name

    @property
    def status(self) -> dict[str, Any]:
        return self.world.get(PLURAL, self.name).get("status", {})

    def condition(self, kind: str) -> dict[str, Any]:
        """Return a condition; empty when there is none."""
        found = (each for each in self.status.get("conditions", []) if each["type"] == kind)
        return next(found, {})

    def pods(self) -> Objects:
        """Return its pods by their index, the newest of each last."""
        pods = self.world.list("pods", f"{LABEL_JOB}={self.name}")
        return sorted(pods, key=lambda pod: (_index(pod), pod["metadata"]["creationTimestamp"]))

    def jobs(self) -> Objects:
        """Return the Jobs of its attempts."""
        return self.world.list("jobs", f"{LABEL_JOB}={self.name}")

    def result(self) -> Result:
        """Return what the newest pod of rank 0 left as its last word."""
        pod = [each for each in self.pods() if _index(each) == 0][-1]
        (state,) = (each["state"] for each in pod["status"]["containerStatuses"])
        return Result.from_json(state["terminated"]["message"])

    def events(self) -> list[ProgressEvent]:
        """Return what rank 0 reported, all attempts together, from the job's work volume."""
        (claim,) = self.world.list("persistentvolumeclaims", f"{LABEL_JOB}={self.name}")
        file = self.world.volumes / claim["spec"]["volumeName"] / EVENTS_FILE
        return [ProgressEvent.from_json(line) for line in file.read_text().splitlines()]

    def rank_pid(self, index: int = 0) -> int:
        """Return the process that trains in a pod, seen from here."""
        pod = self.pods()[index]
        return await_that(
            lambda: next(iter(processes(pod["metadata"]["uid"], b"finetune_trainer\0run\0")), 0),
            f"a rank in {pod['metadata']['name']}",
            PATIENCE_S,
        )

    def await_step(self, step: int) -> None:
        """Wait until a step was told."""
        self.await_that(lambda: self.status.get("progress", {}).get("step", 0) >= step, f"step {step}")

    def await_checkpoint(self) -> int:
        """Wait until a checkpoint was told, and return its step."""
        return self.await_that(lambda: self.status.get("checkpoint", {}).get("step", 0), "a checkpoint")

    def await_phase(self, *phases: str) -> dict[str, Any]:
        """Wait for one of some phases, and return the status."""
        self.await_that(lambda: self.status.get("phase") in phases, f"phase {phases}")
        return self.status

    def complete(self) -> dict[str, Any]:
        """Wait for the end, which must be a good one, and return the status."""
        status = self.await_phase("Complete", "Failed")
        assert status["phase"] == "Complete", self.evidence()
        return status

    def delete(self) -> None:
        """Delete it, and wait until all that belonged to it is gone."""
        self.world.kubectl("delete", "finetunejob", self.name, "--namespace", TRAINING)
        await_that(lambda: not self.pods() and not self.jobs(), f"an end of {self.name}'s children", PATIENCE_S)

    def evidence(self) -> str:
        """Return what a person would look at: status, pods, and their last lines."""
        lines = [json.dumps(self.status, indent=1)]
        for pod in self.pods():
            name = pod["metadata"]["name"]
            lines += [name, json.dumps(pod["status"], indent=1)[-2500:], self.log(name)[-1500:]]
        return "\n".join(lines)

    def log(self, pod: str) -> str:
        """Return what a pod wrote; empty when it is gone."""
        try:
            return self.world.kubectl("logs", pod, "--namespace", TRAINING, f"--container={TRAINER_CONTAINER}")
        except AssertionError as error:
            return f"({error})"

    def await_that(self, find: Callable[[], Any], what: str) -> Any:
        """Return the first true value; fails at the end of the job when that comes before."""
        until = time.monotonic() + PATIENCE_S
        while not (found := find()):
            assert time.monotonic() < until, f"waited {PATIENCE_S} s for {what} of {self.name}: {self.evidence()}"
            assert self.status.get("phase") not in {"Complete", "Failed"} or find(), f"{what}: {self.evidence()}"
            time.sleep(0.3)
        return found


def _index(pod: dict[str, Any]) -> int:
    return int(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"])


def processes(pod_uid: str, command: bytes) -> list[int]:
    """Return the processes of a pod whose command line holds something, seen from here."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
            if command in words and f"pod{pod_uid}" in (folder / "cgroup").read_text():
                found.append(int(folder.name))
        except OSError:
            continue
    return found
