"""What Prometheus is told of each job, and that it stays small and true."""

import asyncio
import tracemalloc
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from finetune_api.exit_codes import Reason
from finetune_api.progress import EventKind, ProgressEvent
from finetune_operator.job_series import JobSeries
from finetune_operator.metrics import Metrics
from finetune_operator.store import Record, record_of

STARTED = "2026-03-01T12:00:00Z"
TOLD = "2026-03-01T12:05:00Z"
STEP = {"step": 7, "loss": 0.25, "gradientNorm": 1.5, "maxSteps": 10}
RUNNING = {"type": "Running", "status": "True", "reason": "PodsReady", "lastTransitionTime": STARTED}


def job(name: str = "a", uid: str = "", version: int = 1, **status: Any) -> Record:
    metadata = {"name": name, "namespace": "ml", "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return record_of({"metadata": metadata, "spec": {}, "status": status})


def running(name: str = "a", **status: Any) -> Record:
    return job(name, **({"phase": "Running", "attempt": 1, "conditions": [RUNNING]} | status))


def event(kind: EventKind, at: str = TOLD, **data: Any) -> ProgressEvent:
    return ProgressEvent(kind=kind, at=at, data=data)


def post(series: JobSeries, record: Record, *events: ProgressEvent) -> bool:
    return series.take(record, record.manifest()["status"], events)


def text_of(series: JobSeries) -> str:
    async def whole() -> str:
        return b"".join([piece async for piece in series.pieces()]).decode()

    return asyncio.run(whole())


def samples(series: JobSeries, name: str) -> list[tuple[Mapping[str, str], float]]:
    """Return the samples of a family as Prometheus' own client reads them."""
    families = {family.name: family for family in text_string_to_metric_families(text_of(series))}
    return [(each.labels, each.value) for each in families[name].samples]


def value(series: JobSeries, name: str) -> float | None:
    found = samples(series, name)
    return found[0][1] if found else None


def of(*records: Record) -> JobSeries:
    return JobSeries(lambda: records)


def test_a_job_is_told_with_its_name_its_phase_and_why_its_pods_do_not_run():
    waiting = {"type": "Running", "status": "False", "reason": "Unschedulable", "lastTransitionTime": STARTED}
    series = of(job("a", phase="Pending", conditions=[waiting]), job("new"))

    assert samples(series, "finetune_job_state") == [
        ({"namespace": "ml", "name": "a", "phase": "Pending", "reason": "Unschedulable"}, 1.0),
        ({"namespace": "ml", "name": "new", "phase": "New", "reason": ""}, 1.0),
    ]
    assert value(series, "finetune_job_running_timestamp_seconds") is None


def test_jobs_are_counted_by_phase_and_reason():
    series = of(running("a"), running("b"), job("new"))

    assert samples(series, "finetune_operator_jobs") == [
        ({"phase": "New", "reason": ""}, 1.0),
        ({"phase": "Running", "reason": "PodsReady"}, 2.0),
    ]


def test_what_the_trainer_posted_is_told_and_what_it_does_not_know_is_left_out():
    record = running()
    series = of(record)
    post(series, record, event("progress", **STEP), event("checkpoint", step=5), event("decision", name="x"))

    assert value(series, "finetune_job_loss") == 0.25
    assert value(series, "finetune_job_gradient_norm") == 1.5
    assert value(series, "finetune_job_checkpoint_step") == 5
    assert value(series, "finetune_job_checkpoint_saved_timestamp_seconds") == 1772366700
    assert value(series, "finetune_job_reported_timestamp_seconds") == 1772366700
    assert value(series, "finetune_job_eta_seconds") is None


def test_a_number_that_is_none_or_not_finite_is_left_out():
    record = running()
    series = of(record)
    for wrong in (None, True, "nan", "Infinity", 10**400, [1]):
        post(series, record, event("progress", **STEP | {"loss": wrong}))

        assert value(series, "finetune_job_loss") is None


def test_the_last_values_are_told_by_the_status_after_a_restart_of_the_operator_and_until_the_job_is_gone():
    told = {"step": 10, "maxSteps": 10, "loss": "0.125", "epoch": "1", "updatedAt": TOLD}
    metrics = {"test/accuracy": "0.9", "validation/f1": "0.8"}
    records = [job(phase="Complete", attempt=2, progress=told, result={"metrics": metrics})]
    series = JobSeries(lambda: records)

    assert value(series, "finetune_job_loss") == 0.125
    assert value(series, "finetune_job_attempt") == 2
    assert [(each["split"], each["metric"], found) for each, found in samples(series, "finetune_job_metric")] == [
        ("test", "accuracy", 0.9),
        ("validation", "f1", 0.8),
    ]
    records.clear()
    assert 'name="a"' not in text_of(series)


def test_a_status_that_has_heard_of_something_newer_wins_over_an_old_post():
    record = running()
    records = [record]
    series = JobSeries(lambda: records)
    post(series, record, event("progress", **STEP))
    newer = {"step": 9, "maxSteps": 10, "loss": "0.2", "updatedAt": "2026-03-01T12:06:00Z"}
    records[:] = [running(version=2, progress=newer)]

    assert value(series, "finetune_job_step") == 9
    assert value(series, "finetune_job_loss") == 0.2


def test_a_job_made_anew_under_the_same_name_does_not_inherit_values():
    old = running(uid="old")
    records = [old]
    series = JobSeries(lambda: records)
    post(series, old, event("progress", **STEP))
    records[:] = [running(uid="new", version=9)]

    assert value(series, "finetune_job_loss") is None


def test_what_is_kept_of_a_job_is_dropped_by_the_first_scrape_that_misses_it():
    record = running()
    records = [record]
    series = JobSeries(lambda: records)
    post(series, record, event("progress", **STEP))
    records.clear()
    text_of(series)
    records.append(record)

    assert value(series, "finetune_job_loss") is None


def test_the_last_failure_is_told_until_the_job_is_complete():
    failure = {"reason": Reason.HOST_OUT_OF_MEMORY.value}
    series = of(running(failure=failure))

    assert samples(series, "finetune_job_failure") == [
        ({"namespace": "ml", "name": "a", "reason": "HostOutOfMemory"}, 1.0)
    ]


def test_the_first_step_counts_once_for_each_time_that_pods_come_to_run():
    record = running()
    series = of(record)
    resumed = RUNNING | {"lastTransitionTime": "2026-03-01T13:00:00Z"}
    steps = [event("progress", **STEP)]

    assert post(series, record, event("decision", name="x")) is False
    assert [post(series, record, *steps), post(series, record, *steps)] == [True, False]
    assert post(series, running(conditions=[resumed], version=2), *steps) is True


def test_an_operator_that_was_started_in_the_middle_of_a_run_takes_no_step_for_the_first():
    seen = {"step": 3, "maxSteps": 10, "updatedAt": "2026-03-01T12:04:00Z"}
    before = {"step": 3, "maxSteps": 10, "updatedAt": "2026-03-01T11:59:00Z"}

    assert post(of(), running(progress=seen), event("progress", **STEP)) is False
    assert post(of(), running(progress=before), event("progress", **STEP)) is True


def test_names_from_a_pod_cannot_break_the_format_or_grow_without_bound():
    record = running(failure={"reason": 'a"}\nevil 1\n{'})
    series = of(record)
    hostile = {'x"} 1\nevil{a="': 1.0, "": 1.0, "y" * 65: 1.0} | {f"m{index}": 1.0 for index in range(100)}
    post(series, record, event("evaluation", split="test", metrics=hostile))
    post(series, record, event("evaluation", split='te"st', metrics={"a": 1.0}))
    text = text_of(series)

    assert "evil" not in text
    assert text.count("finetune_job_metric{") == 16
    assert samples(series, "finetune_job_failure")[0][0]["reason"] == "Other"


def test_no_series_of_a_job_has_a_step_an_epoch_or_a_uid_as_label():
    record = running(failure={"reason": "Evicted"})
    series = of(record)
    post(series, record, event("progress", **STEP), event("evaluation", split="test", step=7, metrics={"f1": 1}))
    labels = {
        name
        for family in text_string_to_metric_families(text_of(series))
        for sample in family.samples
        for name in sample.labels
    }

    assert labels == {"namespace", "name", "phase", "reason", "split", "metric"}


def test_ten_thousand_jobs_are_told_within_20_mib_and_other_work_goes_on_meanwhile():
    records = [running(f"job-{number}") for number in range(10_000)]
    series = JobSeries(lambda: records)
    for record in records:
        post(series, record, event("progress", **STEP))

    async def scrape(turns: list[int]) -> int:
        async def others() -> None:
            while True:
                turns[0] += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(others())
        size = sum([len(piece) async for piece in series.pieces()])
        beside.cancel()
        return size

    turns = [0]
    tracemalloc.start()
    size = asyncio.run(scrape(turns))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert size > 5_000_000
    assert peak < 20 * 2**20
    assert turns[0] > 50


def test_the_operators_own_series_have_labels_of_closed_lists_alone():
    metrics = Metrics(CollectorRegistry())
    metrics.train_seconds.labels("Complete").observe(5)
    metrics.writes.labels("create", "jobs", "ok").inc()
    labels = labels_of(generate_latest(metrics.registry).decode())

    assert labels == {"verb", "resource", "result", "reason", "phase", "le"}


def labels_of(text: str) -> set[str]:
    families: Sequence[Any] = list(text_string_to_metric_families(text))
    return {name for family in families for sample in family.samples for name in sample.labels}
