"""The operator's rights: each is used in one long story, and nothing is asked for beyond them.

The account of every test has exactly these rights; `conftest` asserts, when all tests are done, that the API server
never had to forbid anything.
"""

from pathlib import Path

import httpx

from finetune_api.exit_codes import Reason, exit_code
from finetune_operator.permissions import PERMISSIONS
from support.accounts import OPERATOR_NAMESPACE
from support.faults import Request, to
from support.kueue import serve_workloads
from support.waiting import await_that
from support.world import MERGE, World, complete_message, failure_message

# Admission asks for it at every Job that blocks its owner's deletion; the plugin for that is on in the test cluster.
_ASKED_BY_ADMISSION = {("finetunejobs/finalizers", "update")}


def verb(request: Request) -> str:
    if request.method != "GET":
        return {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}[request.method]
    return "get" if request.name else "watch" if request.is_watch else "list"


def test_every_right_is_used_and_none_is_missing(cluster, namespace: str, tmp_path: Path):
    serve_workloads(cluster, tmp_path)
    with World(cluster, namespace, tmp_path, flags=(f"--lease-namespace={OPERATOR_NAMESPACE}",)) as world:
        world.operator.start(ready=False)
        a_gang_that_is_retried(world)
        a_job_that_is_lost_and_relabelled_and_deletes_itself(world)
        a_job_in_a_queue(world)
        a_job_without_quota(world)
        await_that(
            lambda: any(to("workloads", watch=True)(each) for each in world.proxy.requests), "a watch of Workloads"
        )
        await_that(lambda: any(to("leases", "PUT")(each) for each in world.proxy.requests), "a renewed lease")
        asked = {(each.resource, verb(each)) for each in world.proxy.requests}

    granted = {(resource, verb) for rule in PERMISSIONS for resource in rule["resources"] for verb in rule["verbs"]}
    assert granted - asked - _ASKED_BY_ADMISSION == set()


def a_gang_that_is_retried(world: World) -> None:
    """Two nodes and a claim of its own: a Job that could not be posted at once finds Service and claim there."""
    world.proxy.fail(500, to("jobs", "POST"), times=1)
    world.apply("gang", workers={"nodes": 2}, storage={"size": "1Gi"})
    child = world.run("gang")
    message = failure_message(Reason.RENDEZVOUS_FAILED)
    world.kubelet.finish(child, exit_code=exit_code(Reason.RENDEZVOUS_FAILED), message=message)
    world.kubelet.finish(child, index=1, exit_code=exit_code(Reason.RENDEZVOUS_FAILED), message=message)
    world.await_child("gang", 2)
    world.delete("gang")


def a_job_that_is_lost_and_relabelled_and_deletes_itself(world: World) -> None:
    world.apply("lost", ttlSecondsAfterFinished=0)
    child = world.run("lost")
    labels = {"metadata": {"labels": {"finetune.dev/attempt": "9"}}}
    world.api.patch(world.url("jobs", child), json=labels, headers=MERGE).raise_for_status()
    await_that(lambda: "Drift" in world.event_reasons(), "an event about the labels")
    world.api.delete(world.url("jobs", child), params={"propagationPolicy": "Background"}).raise_for_status()
    world.kubelet.reap(child)
    world.kubelet.finish(world.run("lost", attempt=2), message=complete_message())
    await_that(lambda: world.api.get(world.url("ftj", "lost")).status_code == httpx.codes.NOT_FOUND, "its deletion")


def a_job_in_a_queue(world: World) -> None:
    world.apply("queued", scheduling={"queue": "team-a"})
    world.await_child("queued")
    world.edit("queued", {"suspend": True})
    world.await_phase("Suspended", "queued")


def a_job_without_quota(world: World) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    world.api.post(world.url("resourcequotas"), json=quota).raise_for_status()
    await_that(lambda: "status" in world.api.get(world.url("resourcequotas", "none")).json(), "a quota that counts")
    world.apply("refused")
    world.await_condition("Running", "False", "QuotaExceeded", "refused")
