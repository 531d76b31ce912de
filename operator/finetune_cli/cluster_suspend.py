"""Suspend and resume a job, and say what follows from that."""

from collections.abc import Iterator
from typing import Final

from finetune_cli.cluster_client import UserCluster
from finetune_cli.cluster_target import UsageError
from finetune_cli.cluster_words import RESOURCE, checkpoint_words, holds, status_of
from finetune_operator import errors
from finetune_operator.cluster import finetunejobs
from finetune_operator.observe import Object

_TRIES: Final = 5


async def set_suspend(cluster: UserCluster, namespace: str, name: str, *, to: bool) -> list[str]:
    """Set spec.suspend and return what is said about it.

    Args:
        cluster: The connection.
        namespace: Of the job.
        name: Of the job.
        to: Whether it is to be suspended.

    Returns:
        Lines for people.

    Raises:
        UsageError: The job is finished, or changes all the time.
    """
    for _ in range(_TRIES):
        try:
            return await _set_suspend(cluster, await cluster.get(finetunejobs(namespace, name)), to=to)
        except errors.Conflict:
            # The operator wrote progress in between.
            continue
    raise UsageError(f"{name}: a job that can be written to, found that it changed {_TRIES} times. Try again.")


async def _set_suspend(cluster: UserCluster, job: Object, *, to: bool) -> list[str]:
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    verb = "suspended" if to else "resumed"
    if holds(job, "Finished"):
        rule = f"only an unfinished job can be {verb}"
        raise UsageError(f"{name}: {rule}, found phase {status_of(job)['phase']}. Make a new job to train again.")
    if bool(job["spec"].get("suspend")) is to:
        return [f"{RESOURCE}/{name} {'already suspended' if to else 'not suspended'}"]
    # Onto the very version that was looked at: one that finished meanwhile is not told to be suspended.
    metadata = {"resourceVersion": job["metadata"]["resourceVersion"]}
    await cluster.edit(namespace, name, {"metadata": metadata, "spec": {"suspend": to}})
    return [f"{RESOURCE}/{name} {verb}", *(_after_suspend(job) if to else _after_resume(job))]


def _after_suspend(job: Object) -> Iterator[str]:
    spec, name = job["spec"], job["metadata"]["name"]
    if holds(job, "Running"):
        grace_s = (spec.get("pod") or {}).get("terminationGracePeriodSeconds", 120)
        yield f"Its pods have {grace_s} s to save a checkpoint; then they are gone and their machines are free."
    else:
        yield "Its pods do not run; none will start."
    if (spec.get("scheduling") or {}).get("queue"):
        yield "It leaves its queue, and waits there anew once it is resumed."
    yield f"It goes on from {checkpoint_words(job)}: finetune resume {name}"


def _after_resume(job: Object) -> Iterator[str]:
    queue = (job["spec"].get("scheduling") or {}).get("queue")
    if queue:
        yield f"It waits in queue {queue}, and goes on from {checkpoint_words(job)}."
    else:
        yield f"Its pods start anew and go on from {checkpoint_words(job)}."
    yield f"Follow it: finetune status {job['metadata']['name']} --watch"
