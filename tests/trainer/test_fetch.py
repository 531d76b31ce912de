"""What the container that fetches brings, and what each refusal of the hub leads to."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_api.exit_codes import Reason, exit_code
from finetune_api.result import Result
from finetune_api.run_config import RunConfig, text_digest
from finetune_trainer.errors import ConfigError
from finetune_trainer.sources import Places, locate_data, locate_model
from support.hub import COMMITS, Hub
from support.tiny import manifest, run_config, write_rows

MODEL, DATA = "org/tiny", "org/rows"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder, "text-classification")
    return folder


@pytest.fixture
def hub(tiny_bert: Path, rows: Path):
    with Hub({MODEL: tiny_bert}, {DATA: rows}) as found:
        yield found


class Pod:
    """The containers of a pod, one after the other, with a volume for their work."""

    def __init__(self, folder: Path, hub: Hub, **uris: str) -> None:
        document = manifest("text-classification", folder, folder)
        document["spec"]["model"]["uri"] = uris.get("model", f"hf://{MODEL}")
        document["spec"]["data"]["train"]["uri"] = f"hf://datasets/{DATA}/text-classification.jsonl"
        self.config: RunConfig = run_config(folder, document)
        self.file, self.log = folder / "run.json", folder / "termination-log"
        self.file.write_text(self.config.to_json())
        self.hub = hub

    def run(self, verb: str, **environment: str) -> tuple[int, dict[str, Any]]:
        command = [sys.executable, "-m", "finetune_trainer", verb, "--config", str(self.file)]
        command += ["--sha256", text_digest(self.file.read_text())]
        variables = os.environ | {  # noqa: TID251 - a child needs PATH
            "HF_ENDPOINT": self.hub.url,
            "HF_HUB_DISABLE_XET": "1",
            "FINETUNE_TERMINATION_LOG": str(self.log),
            **environment,
        }
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=300)
        lines = done.stdout.splitlines()
        assert lines, done.stderr
        return done.returncode, json.loads(lines[-1])


def test_what_was_fetched_is_read_without_a_network_and_a_restart_keeps_the_model_it_began_with(
    tmp_path: Path, hub: Hub
):
    pod = Pod(tmp_path, hub)
    code, told = pod.run("fetch", HF_TOKEN="hf_secret")
    assert code == 0
    assert told["fetched"].keys() == {f"hf://{MODEL}", f"hf://datasets/{DATA}/text-classification.jsonl"}
    assert COMMITS[0] in told["fetched"][f"hf://{MODEL}"]
    assert "Bearer hf_secret" in hub.tokens
    assert not pod.log.exists()

    hub.commit = COMMITS[1]
    downloads = len(hub.downloads)
    assert pod.run("fetch") == (0, told)
    assert len(hub.downloads) == downloads

    hub.failure = (500, "")
    code, plan = pod.run("plan", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    assert code == 0, plan


@pytest.mark.parametrize(
    ("status", "error_code", "reason"),
    [
        (401, "RepoNotFound", Reason.MODEL_NOT_FOUND),
        (404, "RepoNotFound", Reason.MODEL_NOT_FOUND),
        (404, "RevisionNotFound", Reason.MODEL_NOT_FOUND),
        (403, "GatedRepo", Reason.ACCESS_DENIED),
        (403, "", Reason.ACCESS_DENIED),
        (500, "", Reason.STORAGE_UNAVAILABLE),
    ],
)
def test_each_refusal_of_the_hub_has_its_reason(tmp_path: Path, hub: Hub, status: int, error_code: str, reason: Reason):
    hub.failure = (status, error_code)
    pod = Pod(tmp_path, hub)
    code, told = pod.run("fetch")

    assert (code, told["failure"]["reason"]) == (exit_code(reason), reason)
    failure = Result.from_json(pod.log.read_bytes()).failure
    assert failure is not None
    assert failure.reason == reason
    assert failure.remedy


def test_a_hub_that_cannot_be_reached_is_tried_again_and_a_cache_that_lacks_the_model_is_not(tmp_path: Path, hub: Hub):
    pod = Pod(tmp_path, hub)

    code, _ = pod.run("fetch", HF_ENDPOINT="http://127.0.0.1:9")
    assert code == exit_code(Reason.STORAGE_UNAVAILABLE)
    code, _ = pod.run("fetch", HF_HUB_OFFLINE="1")
    assert code == exit_code(Reason.MODEL_NOT_FOUND)


def test_pickled_weights_are_not_fetched(tmp_path: Path, hub: Hub):
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "pytorch_model.bin").write_bytes(b"pickle")
    (tmp_path / "repository" / "config.json").write_text("{}")
    hub.repositories["models/org/pickled"] = tmp_path / "repository"
    Pod(tmp_path, hub, model="hf://org/pickled").run("fetch")

    assert "models/org/pickled/pytorch_model.bin" not in hub.downloads


def test_a_claim_is_read_where_the_operator_mounted_it(tmp_path: Path, tiny_bert: Path):
    places = Places(tmp_path, tmp_path, {"corpus": "/var/finetune/claims/corpus", "models": str(tiny_bert.parent)})

    assert locate_data("pvc://corpus/a/train.jsonl", places) == Path("/var/finetune/claims/corpus/a/train.jsonl")
    assert locate_data("pvc://corpus", places) == Path("/var/finetune/claims/corpus")
    assert locate_model(f"pvc://models/{tiny_bert.name}", places).folder == tiny_bert
    with pytest.raises(ConfigError):
        locate_data("pvc://other/train.jsonl", places)
