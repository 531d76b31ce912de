"""One node per test session, with DNS; nothing of it is left at the end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.images import Images
from node.machine import Machine
from node.node import Node
from node.world import World
from support.cluster import make_control_plane

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder; what begins with an empty cluster goes first."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.node)
    items.sort(key=lambda item: item.path != _HERE / "test_readme.py")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("node")


@pytest.fixture(scope="session")
def images(folder: Path) -> Iterator[Images]:
    with Images(folder / "images.log").locked() as images:
        yield images


@pytest.fixture(scope="session")
def machine(folder: Path) -> Iterator[Machine]:
    machine = Machine(folder / "machine")
    try:
        machine.start()
        yield machine
    finally:
        machine.stop()
        assert machine.leftovers() == []


@pytest.fixture(scope="session")
def plane(machine: Machine, folder: Path) -> Iterator[Any]:
    """The control plane, inside the machine: pods reach it, and nobody else but the tests."""
    certificates = folder / "plane" / "certs" / "apiserver.crt"
    flags = {
        "kube-controller-manager": (f"--root-ca-file={certificates}",),
        # The node has no name that anybody resolves.
        "kube-apiserver": ("--kubelet-preferred-address-types=InternalIP",),
    }
    plane = make_control_plane(folder / "plane", address=machine.address, inside=machine.inside(), flags=flags)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


@pytest.fixture(scope="session")
def node(machine: Machine, plane: Any, images: Images) -> Node:
    node = Node(machine, plane, images)
    node.start()
    node.start_dns()
    return node


@pytest.fixture(scope="session")
def empty(node: Node, images: Images, folder: Path) -> Iterator[World]:
    """A cluster before anything of ours is installed: images that can be pulled, and volumes."""
    world = World(node, folder)
    with world.client:
        world.provide(images)
        yield world


@pytest.fixture(scope="session")
def world(empty: World) -> World:
    """The chart installed, and a namespace to train in."""
    empty.install()
    return empty
