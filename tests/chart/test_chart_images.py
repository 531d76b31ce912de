"""What goes into the images: what pyproject.toml asks for, everything pinned by hash, no address of any registry."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from support.cluster import ROOT

LOCKS = {path.stem: path for path in (ROOT / "requirements").glob("*.txt")}
DOCKERFILES = {"operator": ROOT / "operator" / "Dockerfile", "trainer": ROOT / "trainer-image" / "Dockerfile"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
_PIN = re.compile(r"(?m)^([a-z0-9][a-z0-9.-]*)==(\S+) \\$")


def pins(name: str) -> dict[str, str]:
    return dict(_PIN.findall(LOCKS[name].read_text()))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_what_the_project_asks_for(name: str):
    wanted = [Requirement(each) for each in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"][name])]
    pinned = pins(name)

    wrong = [str(each) for each in wanted if not each.specifier.contains(pinned.get(canonical(each.name), "0"))]
    assert not wrong, "run make locks"


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_of_a_lock_has_hashes_and_none_an_address(name: str):
    text = LOCKS[name].read_text()
    packages = re.split(r"(?m)^(?=[a-z0-9])", text)[1:]

    assert len(packages) == len(pins(name)) > 20
    assert all("--hash=sha256:" in each for each in packages)
    assert not re.search(r"://|--index-url|--find-links", text)


def test_the_operator_carries_no_torch():
    assert not {"torch", "transformers", "numpy"} & pins("operator").keys()
    assert {"torch", "transformers", "peft"} <= pins("trainer").keys()


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_takes_hashed_wheels_only_and_runs_as_nobody(name: str):
    text = DOCKERFILES[name].read_text()

    assert f"COPY requirements/{name}.txt" in text
    assert "--only-binary :all: --require-hashes" in text
    assert re.findall(r"(?m)^USER (.*)$", text) == ["65532:65532"]


def test_what_is_copied_into_an_image_is_let_through_by_dockerignore():
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for path in DOCKERFILES.values()
        for source in re.findall(r"(?m)^COPY (\S+) ", path.read_text())
        if not source.endswith(".txt")
    }

    assert copied <= let_through
    assert all(Path(ROOT / each).is_dir() for each in copied)
