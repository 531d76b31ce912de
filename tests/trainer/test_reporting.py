"""What Prometheus is told."""

import math
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from finetune_api.progress import ProgressEvent
from finetune_trainer import run
from finetune_trainer.errors import Preempted
from finetune_trainer.reporting import Reporter
from finetune_trainer.run import Progress, Rank
from finetune_trainer.series import Device, Metrics
from support.stopping import StopAfter
from support.tiny import manifest, run_config, train, write_rows

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
Samples = dict[str, float]


def scraped(metrics: Metrics) -> Samples:
    """Return the samples of our families as a real scrape finds them; labels are written behind the name."""
    text = httpx.get(metrics.serve("127.0.0.1:0"), trust_env=False).text
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    ours = [sample for sample in found if sample.name.startswith("finetune_")]
    return {" ".join((each.name, *sorted(each.labels.values()))): each.value for each in ours}


class Clock:
    at = 1000.0

    def __call__(self) -> float:
        return self.at


def test_the_endpoint_tells_the_last_step_evaluation_and_checkpoint_and_labels_no_step(tmp_path: Path):
    reporter = Reporter(tmp_path, rank=0)
    place = tmp_path / "checkpoints" / "step-00000007"
    place.mkdir(parents=True)
    (place / "state.safetensors").write_bytes(b"x" * 100)
    reporter.progress(STEP)
    reporter.evaluation("test", 7, {"accuracy": 0.9})
    reporter.checkpoint(7, "checkpoints/step-00000007")
    told = scraped(reporter.metrics)
    reporter.close()

    assert told["finetune_train_loss"] == 0.25
    assert told["finetune_train_step"] == 7
    assert told["finetune_eval_metric accuracy test"] == 0.9
    assert told["finetune_checkpoint_step"] == 7
    assert told["finetune_checkpoint_bytes"] == 100
    assert told["finetune_checkpoint_saves_total"] == 1
    assert told["finetune_train_heartbeat_timestamp_seconds"] > 1e9


def test_what_is_not_known_yet_is_left_out_instead_of_told_as_zero():
    told = scraped(Metrics(list))

    assert told == {"finetune_checkpoint_saves_total": 0}


def test_time_is_told_by_phase_the_present_one_included():
    clock = Clock()
    metrics = Metrics(list, clock)
    metrics.phase("data")
    clock.at += 5
    metrics.phase("training")
    clock.at += 7
    metrics.phase("data")
    clock.at += 1
    told = scraped(metrics)

    assert told["finetune_train_phase_seconds data"] == 6
    assert told["finetune_train_phase_seconds training"] == 7


def test_gpus_are_told_by_their_number_and_what_a_card_does_not_tell_is_left_out():
    cards = [Device(0, 0.5, 2e9, 8e10, 61.0, 400.0), Device(1, None, 1e9, 8e10, None, None)]
    told = scraped(Metrics(lambda: cards))

    assert told["finetune_gpu_utilization_ratio 0"] == 0.5
    assert told["finetune_gpu_memory_used_bytes 1"] == 1e9
    assert "finetune_gpu_utilization_ratio 1" not in told
    assert {name.split()[0] for name in told if name.startswith("finetune_gpu")} == {
        "finetune_gpu_utilization_ratio",
        "finetune_gpu_memory_used_bytes",
        "finetune_gpu_memory_total_bytes",
        "finetune_gpu_temperature_celsius",
        "finetune_gpu_power_watts",
    }


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


def test_an_evaluation_that_a_request_to_stop_took_is_made_up_for_by_the_resumed_run(tmp_path: Path, tiny_bert: Path):
    rows = write_rows(tmp_path, "text-classification")
    sections = {"data": {"validation": {"fraction": 0.25}}, "evaluation": {"every": "2steps"}}
    config = run_config(tmp_path, manifest("text-classification", tiny_bert, rows, **sections))
    progress = Progress()
    with pytest.raises(Preempted):
        run.train(config, Rank(), StopAfter(progress, 2), progress)
    train(config)

    events = [ProgressEvent.from_json(each) for each in (tmp_path / "work/events.jsonl").read_bytes().splitlines()]
    assert [each.data["step"] for each in events if each.kind == "evaluation"] == [2, 4]
