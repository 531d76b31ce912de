"""FAULTS 34 and 35 on a control plane of their own: the definition goes and comes back, or holds nothing back."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from finetune_api import names
from support.cluster import CRD, CRD_URL, NoGo, await_established, load_control_plane
from support.shared_world import shared_world
from support.waiting import await_that
from support.world import SPEC, World, complete_message


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A control plane that these tests may ruin."""
    try:
        found = load_control_plane(tmp_path_factory.mktemp("plane"))
    except NoGo as error:
        pytest.skip(f"tier left out: {error}")
    yield found
    found.stop()


@pytest.fixture(scope="module")
def world(plane: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with shared_world(plane, "definition", tmp_path_factory.mktemp("operator")) as found:
        yield found


def test_f34_a_definition_that_is_deleted_and_made_again_is_served_as_before(world: World, plane: Any):
    world.apply("first")
    world.run("first")
    world.api.delete(CRD_URL).raise_for_status()
    await_that(lambda: world.api.get(CRD_URL).status_code == httpx.codes.NOT_FOUND, "its end")
    # Long enough for the operator to start its watch anew while there is nothing to watch.
    await_that(lambda: "the CRD is missing" in world.operator.health()[1], "a word about the definition")
    assert world.operator.is_running
    plane.kubectl("apply", "--server-side", "-f", str(CRD))
    await_established(world.api)
    await_that(lambda: world.api.get(world.url("ftj")).status_code == httpx.codes.OK, "FineTuneJobs")
    world.apply("second")
    world.run("second")
    # The name of one that went with the definition is free.
    world.apply("first")
    world.kubelet.finish(world.run("first"), message=complete_message())
    world.await_phase("Complete", "first")

    assert world.operator.health() == (200, "ok\n")
    assert world.status("first")["attempt"] == 1


# Each would break a reader that trusts the schema.
SHAPES: dict[str, Any] = {
    "absent": None,
    "text": "a text",
    "list": [1, 2],
    "empty": {},
    "task": SPEC | {"task": 5},
    "scheduling": SPEC | {"scheduling": "gpu"},
    "suspend": SPEC | {"suspend": "no"},
    "deadline": SPEC | {"activeDeadlineSeconds": "soon"},
    "ttl": SPEC | {"ttlSecondsAfterFinished": "x"},
    "restarts": SPEC | {"restarts": [3]},
    "workers": SPEC | {"workers": {"nodes": "two", "resources": []}},
    "data": SPEC | {"data": {"train": [], "fields": ["text"]}},
    "pod": SPEC | {"pod": {"env": "A=b", "labels": 1}},
}
# What a newer operator might know.
NEWER: dict[str, Any] = {
    "field": SPEC | {"trainng": {"epochs": 1}},
    "depth": SPEC | {"method": json.loads('{"a":' * 60 + "1" + "}" * 60)},
}


def test_f35_a_spec_that_no_schema_held_back_ends_its_job_whatever_it_is(world: World):
    take_everything(world)
    # Watches that are open still see what the old schema leaves of an object.
    world.operator.restart()
    for name, spec in {**SHAPES, **NEWER}.items():
        body = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": name}}
        document = body if spec is None else {**body, "spec": spec}
        world.api.post(world.url("ftj"), json=document).raise_for_status()
    world.apply("good")
    world.run("good")
    held = [world.await_condition("Accepted", "False", "UnknownField", name) for name in NEWER]
    for name in SHAPES:
        assert world.await_phase("Failed", name)["failure"]["reason"] == "InvalidSpec", name
        assert world.children(name) == []
    world.settle()

    assert world.writes_during(2) == []
    assert "internal error" not in world.operator.log.read_text()
    # What only a newer operator knows is held, not ended: after the upgrade it runs.
    assert "spec.trainng" in held[0]["message"]
    assert [world.condition("Finished", name) for name in NEWER] == [{}, {}]
    world.edit("field", {"trainng": None})
    world.run("field")


def take_everything(world: World) -> None:
    """Replace the definition's schema by one that checks nothing."""
    definition = world.api.get(CRD_URL).raise_for_status().json()
    anything = {"x-kubernetes-preserve-unknown-fields": True}
    # The operator selects by the phase.
    status = {"type": "object", **anything, "properties": {"phase": {"type": "string"}}}
    version = definition["spec"]["versions"][0]
    version["schema"]["openAPIV3Schema"] = {"type": "object", "properties": {"spec": anything, "status": status}}
    version["selectableFields"] = [{"jsonPath": ".status.phase"}]
    world.api.put(CRD_URL, json=definition).raise_for_status()
    probe = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": "probe"}, "spec": "a text"}
    await_that(
        lambda: world.api.post(world.url("ftj"), json=probe, params={"dryRun": "All"}).is_success, "the new schema"
    )
