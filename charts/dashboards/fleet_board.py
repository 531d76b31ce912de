"""The board of all jobs: what runs, what waits and why, what fails, how long things take, what the GPUs do."""

from typing import Final

from panels import Board, Kind, Panel, Query, Variable

_SOME: Final = 'namespace=~"$namespace"'
_ON: Final = "on (namespace, name)"
_RUNNING: Final = f'{_ON} finetune_job_state{{{_SOME}, phase="Running"}}'


def _quantiles(series: str) -> tuple[Query, ...]:
    sums = f"sum by (le) (rate(finetune_operator_{series}_bucket[$__range]))"
    return tuple(Query(f"histogram_quantile({part}, {sums})", told) for part, told in ((0.5, "median"), (0.95, "95 %")))


_JOBS: Final = (
    Panel(
        title="Jobs by phase",
        description="FineTuneJobs of the chosen namespaces by phase, finished ones until they are deleted.",
        unit="none",
        kind=Kind.AREAS,
        width=12,
        queries=(Query(f"count by (phase) (finetune_job_state{{{_SOME}}})", "{{phase}}"),),
    ),
    Panel(
        title="Why jobs do not run",
        description="Jobs without running pods that are not over, by reason: queue, quota, nodes, images, suspension.",
        unit="none",
        kind=Kind.AREAS,
        width=12,
        queries=(
            Query(
                f'count by (phase, reason) (finetune_job_state{{{_SOME}, phase=~"New|Pending|Suspended|Restarting"}})',
                "{{phase}}: {{reason}}",
            ),
        ),
    ),
    Panel(
        title="Jobs that are not over",
        description="Each with its state, steps, loss, speed and the seconds since its last report.",
        unit="none",
        kind=Kind.TABLE,
        width=24,
        columns=("", "attempt", "step", "of steps", "loss", "rows/s", "seconds since report"),
        queries=(
            Query(f'max by (namespace, name, phase, reason) (finetune_job_state{{{_SOME}, phase!~"Complete|Failed"}})'),
            Query(f"max by (namespace, name) (finetune_job_attempt{{{_SOME}}} and {_RUNNING})"),
            Query(f"max by (namespace, name) (finetune_job_step{{{_SOME}}} and {_RUNNING})"),
            Query(f"max by (namespace, name) (finetune_job_max_steps{{{_SOME}}} and {_RUNNING})"),
            Query(f"max by (namespace, name) (finetune_job_loss{{{_SOME}}} and {_RUNNING})"),
            Query(f"max by (namespace, name) (finetune_job_samples_per_second{{{_SOME}}} and {_RUNNING})"),
            Query(
                f"time() - max by (namespace, name) (finetune_job_reported_timestamp_seconds{{{_SOME}}} and {_RUNNING})"
            ),
        ),
    ),
)
_ENDS: Final = (
    Panel(
        title="Ends of attempts by reason",
        description="Failures that were written to a status, those that are retried too, of all namespaces.",
        unit="none",
        decimals=0,
        queries=(Query("sum by (reason) (increase(finetune_operator_failures_total[$__range])) > 0", "{{reason}}"),),
        kind=Kind.BARS,
    ),
    Panel(
        title="Last failure of jobs",
        description="Jobs of the chosen namespaces by why their last attempt ended, until they are Complete.",
        unit="none",
        queries=(Query(f"count by (reason) (finetune_job_failure{{{_SOME}}})", "{{reason}}"),),
        kind=Kind.BARS,
    ),
    Panel(
        title="Most attempts",
        description="The ten jobs with the most. Alert FineTuneJobRestartingRepeatedly: three new ones in an hour.",
        unit="none",
        kind=Kind.BARS,
        queries=(
            Query(f"topk(10, max by (namespace, name) (finetune_job_attempt{{{_SOME}}}))", "{{namespace}}/{{name}}"),
        ),
    ),
)
_TIMES: Final = (
    Panel(
        title="Time until pods run",
        description="From the making of an attempt's Job until all its pods run: queue, quota, nodes, volumes, images.",
        unit="s",
        queries=_quantiles("queue_seconds"),
    ),
    Panel(
        title="Time until the first step",
        description="From pods that run until their first step is told: data, model, checks. Posts come every 10 s.",
        unit="s",
        queries=_quantiles("init_seconds"),
    ),
    Panel(
        title="Time of finished jobs",
        description="Time that the pods of finished jobs ran, all attempts together.",
        unit="s",
        queries=_quantiles("train_seconds"),
    ),
    Panel(
        title="Finished jobs",
        description="Jobs that ended in the chosen time, by how.",
        unit="none",
        decimals=0,
        kind=Kind.BARS,
        queries=(Query("sum by (phase) (increase(finetune_operator_train_seconds_count[$__range]))", "{{phase}}"),),
    ),
    Panel(
        title="Work at risk",
        description="The ten running jobs with the oldest checkpoint. Alert FineTuneJobCheckpointTooOld: one hour.",
        unit="s",
        kind=Kind.BARS,
        queries=(
            Query(
                f"topk(10, time() - max by (namespace, name) "
                f"(finetune_job_checkpoint_saved_timestamp_seconds{{{_SOME}}} and {_RUNNING}))",
                "{{namespace}}/{{name}}",
            ),
        ),
    ),
    Panel(
        title="Rows per second",
        description="Training rows per second of all running jobs of the chosen namespaces.",
        unit="none",
        queries=(
            Query(f"sum by (namespace) (finetune_job_samples_per_second{{{_SOME}}} and {_RUNNING})", "{{namespace}}"),
        ),
    ),
)
_GPUS: Final = (
    Panel(
        title="GPUs in use",
        description="GPUs on the machines of rank 0 that jobs hold; other machines of a gang are not scraped.",
        unit="none",
        width=12,
        queries=(Query(f"count by (namespace) (finetune_gpu_memory_total_bytes{{{_SOME}}})", "{{namespace}}"),),
    ),
    Panel(
        title="GPU utilisation by job",
        description="Mean over the GPUs of rank 0's machine; the ten jobs that use theirs the least.",
        unit="percentunit",
        width=12,
        queries=(
            Query(
                f"bottomk(10, avg by (namespace, name) (finetune_gpu_utilization_ratio{{{_SOME}}}))",
                "{{namespace}}/{{name}}",
            ),
        ),
    ),
)
FLEET: Final = Board(
    uid="finetune-fleet",
    title="Fine-tuning / Fleet",
    description="All FineTuneJobs: what runs, waits, fails, and how long it takes.",
    variables=(Variable(name="namespace", values="label_values(finetune_job_state, namespace)", all=True),),
    rows={"Jobs": _JOBS, "Ends": _ENDS, "Times and throughput": _TIMES, "GPUs": _GPUS},
)
