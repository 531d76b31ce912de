"""What Prometheus is told."""

import math
from pathlib import Path

import httpx

from finetune_api.progress import ProgressEvent
from finetune_trainer.reporting import Reporter

STEP = {
    "step": 7,
    "maxSteps": 10,
    "epoch": 0.7,
    "percent": 70,
    "loss": 0.25,
    "samplesPerSecond": 80.0,
    "tokensPerSecond": 2000.0,
    "learningRate": 1e-4,
    "gradientNorm": 1.5,
    "etaSeconds": 3.0,
}


def test_the_endpoint_tells_the_last_step_evaluation_and_checkpoint_and_labels_no_step(tmp_path: Path):
    reporter = Reporter(tmp_path, rank=0)
    url = reporter.metrics.serve("127.0.0.1:0")
    reporter.progress(STEP)
    reporter.evaluation("test", 7, {"accuracy": 0.9})
    reporter.checkpoint(7, "checkpoints/step-00000007")
    text = httpx.get(url, trust_env=False).text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    reporter.close()

    told = dict(line.rsplit(" ", 1) for line in lines)
    assert float(told["finetune_train_loss"]) == 0.25
    assert float(told["finetune_train_step"]) == 7
    assert float(told['finetune_eval_metric{metric="accuracy",split="test"}']) == 0.9
    assert float(told["finetune_checkpoint_step"]) == 7
    assert float(told["finetune_checkpoint_saves_total"]) == 1
    assert not [line for line in lines if "step=" in line or "epoch=" in line or "uid=" in line]


def test_a_loss_that_is_not_finite_is_told_as_unknown_and_never_as_a_number(tmp_path: Path):
    reporter = Reporter(tmp_path, rank=0)
    reporter.progress(STEP | {"loss": math.nan})
    reporter.close()

    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    assert ProgressEvent.from_json(line).data["loss"] is None


def test_a_rank_that_does_not_report_leaves_no_events(tmp_path: Path):
    reporter = Reporter(tmp_path, rank=1)
    reporter.progress(STEP)
    reporter.close()

    assert [path.name for path in tmp_path.iterdir()] == ["heartbeat-1"] or not list(tmp_path.iterdir())
