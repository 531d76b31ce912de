"""FAULTS 25, 41 and 52 on several machines: two launchers on this one, as two pods would run them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_api.exit_codes import Reason, exit_code
from finetune_api.result import Result
from finetune_api.run_config import text_digest
from support.processes import rank_pid
from support.tiny import manifest, run_config, write_rows

# A machine with two cores and much else to do takes a minute to import torch four times.
PATIENCE_S = 300.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Pods:
    """Two pods of one process each, with a shared work folder."""

    def __init__(self, folder: Path, model: Path, steps: int, every: str = "1000steps"):
        sections = {"training": {"maxSteps": steps}, "checkpoint": {"every": every}}
        document = manifest("text-classification", model, write_rows(folder, "text-classification"), **sections)
        config = run_config(folder, document, 2).model_copy(update={"nodes": 2, "rendezvous": "127.0.0.1"})
        text = config.to_json()
        self.folder, self.work = folder, folder / "work"
        self.config, self.sha256 = folder / "run.json", text_digest(text)
        self.config.write_text(text)
        self.port = free_port()
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, node: int, uid: str = "") -> subprocess.Popen[bytes]:
        environment = os.environ | {  # noqa: TID251 - a child needs PATH
            "JOB_COMPLETION_INDEX": str(node),
            "FINETUNE_RENDEZVOUS_PORT": str(self.port),
            "FINETUNE_TERMINATION_LOG": str(self.message(node)),
            "FINETUNE_POD_UID": uid or f"pod-{node}",
        }
        verb = ["launch", "--config", str(self.config), "--sha256", self.sha256]
        pod = subprocess.Popen([sys.executable, "-m", "finetune_trainer", *verb], env=environment)
        self.running.append(pod)
        return pod

    def message(self, node: int) -> Path:
        return self.folder / f"termination-{node}"

    def result(self, node: int) -> Result:
        return Result.from_json(self.message(node).read_bytes())

    def steps(self) -> int:
        events = self.work / "events.jsonl"
        lines = events.read_text().splitlines() if events.exists() else []
        return max((json.loads(line)["data"]["step"] for line in lines if '"kind":"progress"' in line), default=0)


@pytest.fixture
def pods(tmp_path: Path, tiny_bert: Path):
    made: list[Pods] = []

    def make(**options: object) -> Pods:
        made.append(Pods(tmp_path, tiny_bert, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for pod in (pod for each in made for pod in each.running):
        if pod.poll() is None:
            pod.kill()
            pod.wait()


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, "internal: the test waited in vain"
        time.sleep(0.02)


def test_two_machines_train_to_the_end_and_only_that_of_rank_0_tells_the_result_of_the_run(pods):
    run = pods(steps=4)
    second = run.start(1)
    first = run.start(0)
    assert (first.wait(PATIENCE_S), second.wait(PATIENCE_S)) == (0, 0)

    told = Result.from_json((run.work / "result.json").read_bytes())
    assert told == run.result(0)
    assert (told.outcome, told.step) == ("Complete", 4)
    assert run.result(1).outcome == "Complete"
    assert (run.folder / "artifact" / "manifest.json").exists()
    assert not list(run.work.glob("result-rank-*")) + list(run.work.glob("heartbeat-*"))


def test_a_stop_of_both_saves_and_a_killed_rank_ends_the_other_machine_within_seconds(pods):
    run = pods(steps=100_000)
    first, second = run.start(0), run.start(1)
    until(lambda: run.steps() >= 3)
    for pod in (first, second):
        pod.send_signal(signal.SIGTERM)
    preempted = exit_code(Reason.PREEMPTED)
    assert (first.wait(PATIENCE_S), second.wait(PATIENCE_S)) == (preempted, preempted)
    assert [run.result(node).outcome for node in (0, 1)] == ["Interrupted"] * 2
    saved = run.result(0).checkpoint
    assert saved is not None
    assert saved.step == run.result(0).step > 0

    first, second = run.start(0), run.start(1)
    until(lambda: run.steps() > saved.step)
    os.kill(rank_pid(second.pid), signal.SIGKILL)
    # The collective's own time limit is 600 s.
    assert second.wait(PATIENCE_S) == exit_code(Reason.UNKNOWN)
    assert first.wait(PATIENCE_S) == exit_code(Reason.RENDEZVOUS_FAILED)
    blamed = run.result(1).failure
    assert blamed is not None
    assert blamed.rank == 1
    assert run.result(0).checkpoint is not None


def test_a_machine_that_waits_for_the_others_stops_when_asked_to_and_is_no_failure(pods):
    run = pods(steps=4)
    waiting = run.start(1)
    until(lambda: Path(f"/proc/{waiting.pid}/task/{waiting.pid}/children").read_text().strip())
    waiting.send_signal(signal.SIGTERM)

    assert waiting.wait(PATIENCE_S) == exit_code(Reason.PREEMPTED)
    assert run.result(1).outcome == "Interrupted"


def test_a_late_pod_that_finds_a_newer_one_writing_stops_without_writing(pods):
    run = pods(steps=100_000)
    first, _ = run.start(0, "old"), run.start(1)
    until(lambda: run.steps() >= 1)
    marker = run.work / "checkpoints" / ".writer.json"
    assert json.loads(marker.read_text()) == {"attempt": 1, "pod": "old"}
    marker.write_text(json.dumps({"attempt": 1, "pod": "new"}))
    first.send_signal(signal.SIGTERM)

    assert first.wait(PATIENCE_S) == exit_code(Reason.PREEMPTED)
    assert [path.name for path in marker.parent.iterdir()] == [".writer.json"]
    assert run.result(0).checkpoint is None
