"""One operator for all tests of a file, and what they ask about one job of it; every test has a job name of its own."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune_api import names
from support.accounts import make_namespace
from support.faults import Request
from support.world import MERGE, World

Object = dict[str, Any]


@contextmanager
def shared_world(cluster: Any, namespace: str, folder: Path, *flags: str) -> Iterator[World]:
    """Make a namespace and yield its world, with the operator started."""
    with cluster.client() as api:
        name = make_namespace(api, namespace)
    with World(cluster, name, folder, flags=flags) as world:
        world.operator.start()
        yield world


def delete_child(world: World, child: str) -> None:
    """Delete a Job as `kubectl delete job` does."""
    answer = world.api.request("DELETE", world.url("jobs", child), json={"propagationPolicy": "Background"})
    answer.raise_for_status()


def patch(world: World, plural: str, name: str, change: Object) -> None:
    """Merge a change into an object."""
    world.api.patch(world.url(plural, name), json=change, headers=MERGE).raise_for_status()


def messages(world: World, name: str, reason: str) -> list[str]:
    """Return what the events of a job say that have this reason."""
    found = world.api.get(world.url("events")).raise_for_status().json()["items"]
    return [
        each["message"] for each in found if each["reason"] == reason and each["involvedObject"].get("name") == name
    ]


def attempts(world: World, name: str) -> list[int]:
    """Return the attempts whose Jobs exist."""
    return [int(each["metadata"]["labels"][names.LABEL_ATTEMPT]) for each in world.children(name)]


def writes_about(world: World, name: str) -> list[Request]:
    """Return every write about a job and its children so far; names of other jobs may not begin with this one."""
    mark = f"{name}".encode()
    return [each for each in world.proxy.writes if each.name.startswith(name) or mark in each.body]


def writes_during(world: World, name: str, seconds: float) -> list[Request]:
    """Return what is written about a job in a span of time."""
    before = len(writes_about(world, name))
    time.sleep(seconds)
    return writes_about(world, name)[before:]
