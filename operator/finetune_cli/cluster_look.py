"""What a cluster holds about one job at one moment: the job, its gang's Job, the pods, the events.

Reads what it may: what a user's rights do not cover is named, and the rest still tells.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from finetune_api.names import JOB_NAME_LABEL, job_name
from finetune_cli.cluster_client import UserCluster
from finetune_cli.cluster_seen import Seen, event_time
from finetune_cli.cluster_words import attempt_of
from finetune_operator import errors
from finetune_operator.cluster import core, finetunejobs, jobs
from finetune_operator.observe import Object

_PODS_ASKED = 3


async def look(cluster: UserCluster, namespace: str, name: str) -> Seen:
    """Read everything about a job that its state can be explained with."""
    job = await cluster.get(finetunejobs(namespace, name))
    child_name = job_name(name, job["metadata"]["uid"], attempt_of(job))
    unread: list[str] = []

    async def allowed(what: str, ask: Callable[[], Awaitable[Any]], nothing: Any) -> Any:
        try:
            return await ask()
        except errors.NotFound:
            return nothing
        except errors.Refused:
            unread.append(f"{what}: not allowed to read")
            return nothing

    child = await allowed("the Job", lambda: cluster.get(jobs(namespace, child_name)), None)
    pods = await allowed("pods", lambda: pods_of(cluster, namespace, child_name), ())
    about = [each["metadata"]["uid"] for each in (job, child, *pods[:_PODS_ASKED]) if each]
    events: list[Object] = []
    for uid in about:
        selector = f"involvedObject.uid={uid}"
        page = await allowed("events", lambda it=selector: cluster.get(core("events", namespace), fieldSelector=it), {})
        events += page.get("items", ())
    events.sort(key=event_time)
    return Seen(job, child, tuple(pods), tuple(events), cluster.now(), tuple(dict.fromkeys(unread)))


async def pods_of(cluster: UserCluster, namespace: str, child: str) -> list[Object]:
    """Return the pods of a batch Job, the oldest first."""
    found: list[Object] = []
    async for page in cluster.pages(core("pods", namespace), labelSelector=f"{JOB_NAME_LABEL}={child}"):
        found += page["items"]
    return sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"])
