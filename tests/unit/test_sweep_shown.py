"""What a sweep prints: its changes, its table, and the manifest of its best trial, which runs from any folder."""

import json
from pathlib import Path

import pytest
import yaml

from finetune_api.status import ArtifactStatus
from finetune_api.sweep_space import validate_sweep
from finetune_api.validation import validate_manifest
from finetune_cli.sweep.engine import End
from finetune_cli.sweep.search import Trial
from finetune_cli.sweep.shown import JsonDisplay, PlainDisplay
from finetune_cli.sweep.telling import status_of
from support.sweeps import sweep_manifest

SWEEP = validate_sweep(sweep_manifest())
POINT = {"training.learningRate": 0.0123456, "method.rank": 8}
ARTIFACT = ArtifactStatus(uri="/w/trials/0001/artifact", digest="d", formats=["adapter"])
TRIALS = [
    Trial(number=0, parameters=POINT, state="Paused", values=(0.5, 0.25)),
    Trial(number=1, parameters=POINT, state="Complete", values=(0.125,), metrics={"test/f1": 0.5}, artifact=ARTIFACT),
    Trial(number=2, parameters=POINT, state="Failed", values=(None,), reason="NonFiniteLoss", message="step 3: nan"),
]


def test_the_best_trials_manifest_is_printed_and_is_a_job_with_absolute_addresses(capsys: pytest.CaptureFixture[str]):
    status = status_of(SWEEP, TRIALS, End("Complete"), Path("/data"))
    PlainDisplay(SWEEP).end(status)
    table, _, text = capsys.readouterr().out.partition("---\n")

    job = validate_manifest(yaml.safe_load(text))
    assert job.spec.data.train.uri == "file:///data/rows.csv"
    assert (job.spec.training.learning_rate, job.spec.method.rank) == tuple(POINT.values())
    assert job.spec.model.uri == "package://model"
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in table.splitlines() if "│" in line]
    assert rows == [
        ["0", "0.01235", "8", "0.25", "2", "Paused"],
        ["1 *", "0.01235", "8", "0.125", "1", "Complete"],
        ["2", "0.01235", "8", "", "1", "Failed: NonFiniteLoss"],
    ]
    assert "best: trial 1, loss 0.125\n  test/f1: 0.5\nartifact: /w/trials/0001/artifact\n" in table


def test_a_trial_is_told_when_it_changes_and_then_alone(capsys: pytest.CaptureFixture[str]):
    plain, lines = PlainDisplay(SWEEP), JsonDisplay(lines=True)
    for display in (plain, lines):
        display.trials(TRIALS[:1])
        display.trials(TRIALS[:1])
        display.trials(TRIALS[:2])
    told = capsys.readouterr().out.splitlines()

    assert told[:2] == [
        "trial 0    Paused    training.learningRate 0.01235, method.rank 8: loss 0.2500 after 2",
        "trial 1    Complete  training.learningRate 0.01235, method.rank 8: loss 0.1250 after 1",
    ]
    assert [(each["number"], each["state"]) for each in map(json.loads, told[2:])] == [(0, "Paused"), (1, "Complete")]


def test_a_sweep_that_stopped_says_why(capsys: pytest.CaptureFixture[str]):
    for end in (End("Interrupted"), End("Failed", "trial 2: DataError: a row")):
        PlainDisplay(SWEEP).end(status_of(SWEEP, TRIALS[:1], end, Path("/data")))
    told = capsys.readouterr().out

    assert "Interrupted. The same command continues.\n" in told
    assert "Failed: trial 2: DataError: a row\n" in told
