"""README's commands for the user of a cluster, each as it is written there, on a cluster that has nothing of ours."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from node.submitted import TRAINING
from node.world import SYSTEM, World
from support.boards import FILES
from support.cluster import ROOT
from support.helm import NEWEST, build_helm

_SECTION = "### Five commands"
_EXAMPLES = ROOT / "examples"
# What a user has after `make env`, and nothing else is on the way.
_TOOLS = f"{ROOT / '.venv' / 'bin'}:/usr/bin:/bin"


def commands() -> list[str]:
    """Return the commands of README's section, lines that go on put together."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition(_SECTION)[2].partition("\n#")[0]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block, f"README.md has no commands below {_SECTION!r}"
    return [line for line in block[1].replace("\\\n", "").splitlines() if line]


@pytest.fixture
def shell(empty: World, tmp_path: Path) -> dict[str, str]:
    """Return a user's environment: helm and kubectl of this cluster's version, and where images come from."""
    (tmp_path / "helm").symlink_to(build_helm(NEWEST))
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f'#!/bin/sh\nexec {empty.plane.binary} kubectl "$@"\n')
    kubectl.chmod(0o755)
    ours = {"PATH": f"{tmp_path}:{_TOOLS}", "HOME": str(tmp_path), "KUBECONFIG": str(empty.plane.kubeconfig)}
    python = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}  # noqa: TID251 - the rim
    return python | ours | {"REGISTRY": "docker.io/library", "TAG": "e2e"}


def run(command: str, shell: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-euc", command], cwd=ROOT, env=shell, capture_output=True, text=True, check=False, timeout=540
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_readmes_five_commands_lead_from_nothing_to_a_finished_job_and_boards_for_grafana(
    empty: World, shell: dict[str, str], capsys: pytest.CaptureFixture[str]
):
    assert len(commands()) == 5
    with capsys.disabled():
        for command in commands():
            print(f"\n$ {command}")  # noqa: T201 - what a reader of README sees
            told = run(command, shell)
            print(told, end="")  # noqa: T201

    assert "Complete" in told
    result = empty.get("finetunejobs", "movie-sentiment")["status"]["result"]
    assert float(result["metrics"]["test/accuracy"]) >= 0.75
    assert set(result["artifact"]["formats"]) == {"adapter", "merged"}
    assert (empty.output("movie-sentiment") / "manifest.json").exists()
    # What Grafana's sidecar looks for.
    found = empty.list("configmaps", "grafana_dashboard=1", SYSTEM)
    boards = {name: json.loads(text) for each in found for name, text in each["data"].items()}
    assert boards == {path.name: json.loads(path.read_text()) for path in FILES}


def test_the_clusters_manifest_is_the_demos_with_other_addresses():
    def settings(path: Path) -> dict[str, object]:
        spec = yaml.safe_load(path.read_text())["spec"]
        spec["output"].pop("uri", None)
        return spec | {"model": None, "data": None}

    assert settings(_EXAMPLES / "cluster" / "movie-sentiment.yaml") == settings(_EXAMPLES / "movie-sentiment.yaml")


@pytest.mark.parametrize("namespace", [SYSTEM, TRAINING])
def test_neither_namespace_takes_a_pod_that_the_restricted_level_forbids(world: World, namespace: str):
    pod = {
        "metadata": {"name": "root"},
        "spec": {"containers": [{"name": "root", "image": "debian:bookworm-slim"}]},
    }

    answer = world.client.post(f"/api/v1/namespaces/{namespace}/pods", params={"dryRun": "All"}, json=pod)

    assert answer.status_code == 403
    assert 'violates PodSecurity "restricted' in answer.json()["message"]
