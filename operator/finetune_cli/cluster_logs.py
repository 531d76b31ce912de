"""The output of a job's trainer: of which pod, and what is known when there is none."""

import asyncio
import sys
from dataclasses import dataclass
from typing import Final

from finetune_api.names import TRAINER_CONTAINER, job_name
from finetune_api.spec import Workers
from finetune_cli.cluster_client import UserCluster
from finetune_cli.cluster_look import pods_of
from finetune_cli.cluster_target import UsageError
from finetune_cli.cluster_words import attempt_of, holds, status_of
from finetune_operator.cluster import core, finetunejobs
from finetune_operator.diagnose import waiting
from finetune_operator.diagnose_text import clean
from finetune_operator.observe import Object, pod_facts
from finetune_operator.plan.resources import processes_per_node
from finetune_operator.settings import Settings

_LOOK_AGAIN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose output is asked for."""

    name: str
    rank: int = 0
    previous: bool = False
    follow: bool = False


async def show_log(cluster: UserCluster, namespace: str, wanted: Wanted) -> None:
    """Write a trainer's output to standard output as it is.

    Args:
        cluster: The connection.
        namespace: Of the job.
        wanted: Which output; following waits for a trainer that has not started.

    Raises:
        UsageError: There is no such output; says what is known instead.
    """
    waited_for = ""
    while True:
        job = await cluster.get(finetunejobs(namespace, wanted.name))
        pod = await _find_pod(cluster, namespace, job, wanted)
        held_up = _held_up(job, pod)
        if not held_up:
            break
        if not wanted.follow or _is_over(job) or wanted.previous:
            raise UsageError(f"logs of {wanted.name}: {held_up} See: finetune why {wanted.name}")
        if held_up != waited_for:
            sys.stderr.write(f"waiting: {held_up}\n")
            waited_for = held_up
        await asyncio.sleep(_LOOK_AGAIN_S)
    assert pod is not None, "internal: nothing is held up, and there is no pod"
    path = f"{core('pods', namespace, pod['metadata']['name'])}/log"
    more = {"follow": "true"} if wanted.follow else {}
    async for chunk in cluster.log(path, container=TRAINER_CONTAINER, **more):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def node_of(job: Object, rank: int) -> int:
    """Return the completion index of the pod in which a process runs; UsageError when there is no such rank."""
    workers = Workers.model_validate(job["spec"].get("workers") or {}, extra="ignore")
    processes = processes_per_node(workers, Settings().gpu_resources)
    if not 0 <= rank < workers.nodes * processes:
        raise UsageError(f"--rank: from 0 to {workers.nodes * processes - 1}, found {rank}. Choose one of these.")
    return rank // processes


async def _find_pod(cluster: UserCluster, namespace: str, job: Object, wanted: Wanted) -> Object | None:
    index = node_of(job, wanted.rank)
    attempt = attempt_of(job) - wanted.previous
    if attempt < 1:
        raise UsageError(f"--previous: an attempt before this one, found none: {wanted.name} is at its first.")
    pods = await pods_of(cluster, namespace, job_name(wanted.name, job["metadata"]["uid"], attempt))
    # A suspension leaves a newer pod of the same rank behind the one that ended.
    return next((each for each in reversed(pods) if pod_facts(each).index == index), None)


def _held_up(job: Object, pod: Object | None) -> str:
    """Return why there is no output; empty when there is some."""
    if pod is None:
        return _gone(job)
    facts = pod_facts(pod)
    if facts.trainer is not None and facts.trainer.state in {"running", "terminated"}:
        return ""
    why = waiting([facts])
    return f"the trainer has not started: {why.message}."


def _gone(job: Object) -> str:
    """Say what is known of a pod that does not exist."""
    failure = status_of(job).get("failure")
    if failure:
        return (
            f"the pod is gone, and its output with it; it ended with {failure['reason']}: {clean(failure['message'])}."
        )
    if _is_over(job):
        return "the pod is gone, and its output with it."
    if holds(job, "Suspended"):
        return "the job is suspended, its pods are gone, and their output with them."
    return "its pods do not exist yet."


def _is_over(job: Object) -> bool:
    return holds(job, "Finished") or bool(job["spec"].get("suspend"))
