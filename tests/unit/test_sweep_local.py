"""How a trial on this machine is watched, stopped and counted, with a real process that tells what a trainer tells."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_api.exit_codes import Reason
from finetune_api.spec import FineTuneJob
from finetune_api.validation import validate_manifest
from finetune_cli.sweep.local import LocalRunner
from support.sweeps import JOB

# Evaluates at every step until it is asked to stop or its last step is done, then leaves a result, as a trainer does.
TRAINER = """
import datetime, json, signal, sys, time
from pathlib import Path
work, last, metric = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
def tell(kind, **data):
    with (work / "events.jsonl").open("a") as file:
        at = datetime.datetime.now(datetime.timezone.utc).isoformat()
        file.write(json.dumps({"kind": kind, "at": at, "data": data}) + "\\n")
saved = work / "checkpoints" / "step-00000001"
first = int((saved / "at").read_text()) + 1 if saved.exists() else 1
tell("decision", name="steps", value=str(last), reason="")
outcome = "Complete"
for step in range(first, last + 1):
    if step > first:
        time.sleep(0.15)
    if asked:
        outcome = "Interrupted"
        break
    tell("evaluation", step=step, split="validation", metrics={metric: 1 / step})
    saved.mkdir(parents=True, exist_ok=True)
    (saved / "at").write_text(str(step - 1))
    end = time.monotonic() + 5
    while step == last and metric != "loss" and not asked and time.monotonic() < end:
        time.sleep(0.01)
(work / "result.json").write_text(json.dumps({"outcome": outcome, "metrics": {"validation/loss": 1 / step}}))
"""


def job() -> FineTuneJob:
    head = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "trial"}}
    return validate_manifest({**head, "spec": JOB})


def runner(folder: Path, last: int, metric: str = "loss") -> LocalRunner:
    def start(config_file: Path, _sha256: str, log: Path, _held: int) -> Any:
        command = [sys.executable, "-c", TRAINER, str(config_file.parent), str(last), metric]
        with log.open("ab") as stream:
            return subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)

    return LocalRunner("loss", folder / "sweep.yaml", folder / "work", start)


def nothing(_: object) -> None: ...


def test_a_trial_pauses_after_its_evaluations_and_goes_on_from_there(tmp_path: Path):
    trials = runner(tmp_path, last=6)
    paused = trials.run(0, job(), 2, nothing)
    told: list[int] = []
    whole = trials.run(0, job(), None, lambda values: told.append(len(values)))

    assert (paused.outcome, paused.values) == ("Paused", (1, 1 / 2))
    assert (whole.outcome, whole.values) == ("Complete", tuple(1 / step for step in range(1, 7)))
    # An evaluation that is repeated after the stop counts once.
    assert told[0] >= 2
    assert told == sorted(told)


def test_a_trial_is_not_stopped_at_its_last_step(tmp_path: Path):
    assert runner(tmp_path, last=3).run(0, job(), 3, nothing).outcome == "Complete"


def test_a_trial_that_was_judged_often_enough_before_a_kill_is_not_started_again(tmp_path: Path):
    runner(tmp_path, last=6).run(0, job(), 2, nothing)
    (tmp_path / "work/trials/0000/trainer.log").unlink()
    again = runner(tmp_path, last=6).run(0, job(), 2, nothing)

    assert (again.outcome, again.values) == ("Paused", (1, 1 / 2))
    assert not (tmp_path / "work/trials/0000/trainer.log").exists()


def test_a_metric_that_the_task_lacks_is_told_with_those_that_it_has(tmp_path: Path):
    failure = runner(tmp_path, last=1, metric="accuracy").run(0, job(), None, nothing).failure

    assert failure is not None
    assert (failure.reason, failure.remedy) == (Reason.CONFIG_ERROR, "Choose from accuracy.")
    assert failure.message == "spec.objective.metric: the task has no metric 'loss'"


def test_a_trainer_that_leaves_nothing_fails_with_its_log(tmp_path: Path):
    def start(_config_file: Path, _sha256: str, log: Path, _held: int) -> Any:
        with log.open("ab") as stream:
            return subprocess.Popen([sys.executable, "-c", "import nowhere"], stdout=stream, stderr=stream)

    failure = LocalRunner("loss", tmp_path / "sweep.yaml", tmp_path / "w", start).run(0, job(), None, nothing).failure
    assert failure is not None
    assert "No module named 'nowhere'" in failure.message


@pytest.mark.parametrize("left", ["artifact", "checkpoints"])
def test_what_a_beaten_trial_left_is_deleted_and_its_events_stay(tmp_path: Path, left: str):
    trials = runner(tmp_path, last=1)
    trials.run(4, job(), None, nothing)
    (trials.work_of(4) / left).mkdir(exist_ok=True)
    trials.drop(4)

    assert not (trials.work_of(4) / left).exists()
    assert (trials.work_of(4) / "events.jsonl").exists()
