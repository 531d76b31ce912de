"""The board of one job: is it well, how far is it, what does it learn, what does it cost.

Curves come from the pod of rank 0 where it is scraped, every 15 s; where it is not, or is gone, from what it posted to
the operator, which keeps the last values until the job is deleted.
"""

from typing import Final

from panels import Board, Kind, Panel, Query, Variable

_JOB: Final = 'namespace="$namespace", name="$name"'


def _told(name: str) -> str:
    """Return the trainer's own series of a value, else the operator's."""
    by = "max by (namespace, name)"
    return f"{by} (finetune_train_{name}{{{_JOB}}}) or {by} (finetune_job_{name}{{{_JOB}}})"


def _curve(title: str, name: str, unit: str, description: str, width: int = 8) -> Panel:
    queries = (Query(_told(name), title),)
    return Panel(title=title, description=description, unit=unit, queries=queries, width=width)


_NOW: Final = (
    Panel(
        title="State",
        description="Phase of the job, and the reason of its condition Running: why pods run or do not.",
        unit="none",
        kind=Kind.NAME,
        width=6,
        queries=(Query(f"finetune_job_state{{{_JOB}}} == 1", "{{phase}}: {{reason}}"),),
    ),
    Panel(
        title="Steps done",
        description="Part of the planned optimiser steps that is done.",
        unit="percentunit",
        kind=Kind.NUMBER,
        width=3,
        queries=(Query(f"({_told('step')}) / ({_told('max_steps')})"),),
    ),
    Panel(
        title="Time left",
        description="Expected time to the last step, from the speed of the last steps. Evaluations are not in it.",
        unit="dtdurations",
        kind=Kind.NUMBER,
        width=3,
        queries=(Query(_told("eta_seconds")),),
    ),
    Panel(
        title="Attempt",
        description="1 until something ended the pods. Each further attempt began at the newest checkpoint.",
        unit="none",
        kind=Kind.NUMBER,
        width=3,
        queries=(Query(f"max(finetune_job_attempt{{{_JOB}}})"),),
    ),
    Panel(
        title="Last failure",
        description="Why the attempt before ended, or the job for good. Empty once it is Complete.",
        unit="none",
        kind=Kind.NAME,
        width=3,
        queries=(Query(f"finetune_job_failure{{{_JOB}}} == 1", "{{reason}}"),),
    ),
    Panel(
        title="Age of the checkpoint",
        description="Time since the newest checkpoint: what a lost node would cost now.",
        unit="dtdurations",
        kind=Kind.NUMBER,
        width=3,
        queries=(Query(f"time() - max(finetune_job_checkpoint_saved_timestamp_seconds{{{_JOB}}})"),),
    ),
    Panel(
        title="Last report",
        description="Time since the operator heard of steps, evaluations, checkpoints. FineTuneJobStalled: 10 minutes.",
        unit="dtdurations",
        kind=Kind.NUMBER,
        width=3,
        queries=(Query(f"time() - max(finetune_job_reported_timestamp_seconds{{{_JOB}}})"),),
    ),
)
_LEARNING: Final = (
    _curve("Training loss", "loss", "none", "Loss of the last step, per supervised element of the global batch."),
    _curve(
        "Gradient norm",
        "gradient_norm",
        "none",
        "Norm over all trained weights before clipping. Spikes are clipped; a rise that stays is not learning.",
    ),
    _curve("Learning rate", "learning_rate", "sci", "Learning rate of the last step, warm-up and decay included."),
    Panel(
        title="Held-out rows",
        description="Every metric of every set of held-out rows, after each evaluation. `base` is the untrained model.",
        unit="none",
        width=12,
        queries=(
            Query(
                f"max by (split, metric) (finetune_eval_metric{{{_JOB}}}) "
                f"or max by (split, metric) (finetune_job_metric{{{_JOB}}})",
                "{{split}} {{metric}}",
            ),
        ),
    ),
    _curve("Epoch", "epoch", "none", "Passes over the training rows done.", 12),
)
_SPEED: Final = (
    _curve("Rows per second", "samples_per_second", "none", "Training rows per second over all processes.", 6),
    _curve(
        "Tokens per second",
        "tokens_per_second",
        "none",
        "Tokens per second over all processes; padding is not counted, so it compares batches of any shape.",
        6,
    ),
    Panel(
        title="Where the time goes",
        description="Seconds of this attempt by what it did: data, model, training with its evaluations, artifact.",
        unit="s",
        kind=Kind.BARS,
        width=6,
        queries=(Query(f"max by (phase) (finetune_train_phase_seconds{{{_JOB}}})", "{{phase}}"),),
    ),
    Panel(
        title="Steps, and those that are safe",
        description="Optimiser steps done, and the step of the newest checkpoint. The gap would be done again.",
        unit="none",
        width=6,
        queries=(
            Query(_told("step"), "done"),
            Query(
                f"max by (namespace, name) (finetune_checkpoint_step{{{_JOB}}}) "
                f"or max by (namespace, name) (finetune_job_checkpoint_step{{{_JOB}}})",
                "in a checkpoint",
            ),
        ),
    ),
    Panel(
        title="Checkpoints",
        description="Checkpoints that this attempt has written.",
        unit="none",
        kind=Kind.NUMBER,
        width=6,
        queries=(Query(f"max(finetune_checkpoint_saves_total{{{_JOB}}})"),),
    ),
    Panel(
        title="Size of a checkpoint",
        description="Bytes of the newest checkpoint; checkpoint.keep of them lie on the work volume.",
        unit="bytes",
        kind=Kind.NUMBER,
        width=6,
        queries=(Query(f"max(finetune_checkpoint_bytes{{{_JOB}}})"),),
    ),
    Panel(
        title="Saved before",
        description="Time since this attempt wrote its newest checkpoint, by its own clock.",
        unit="dtdurations",
        kind=Kind.NUMBER,
        width=6,
        queries=(Query(f"time() - max(finetune_checkpoint_saved_timestamp_seconds{{{_JOB}}})"),),
    ),
    Panel(
        title="Heartbeat of rank 0",
        description="Time since rank 0 showed that it works, within a step too. The launcher waits 15 minutes.",
        unit="dtdurations",
        kind=Kind.NUMBER,
        width=6,
        queries=(Query(f"time() - max(finetune_train_heartbeat_timestamp_seconds{{{_JOB}}})"),),
    ),
)
_MACHINE: Final = (
    Panel(
        title="Memory of rank 0",
        description="Resident memory of the process of rank 0; the pod's limit also counts its launcher and loaders.",
        unit="bytes",
        width=12,
        queries=(Query(f"max by (pod) (process_resident_memory_bytes{{{_JOB}}})", "{{pod}}"),),
    ),
    Panel(
        title="CPUs of rank 0",
        description="CPUs that the process of rank 0 keeps busy.",
        unit="none",
        width=12,
        queries=(Query(f"max by (pod) (rate(process_cpu_seconds_total{{{_JOB}}}[$__rate_interval]))", "{{pod}}"),),
    ),
)
_GPUS: Final = (
    Panel(
        title="GPU utilisation",
        description="Part of the time that a kernel ran, per GPU of rank 0's machine. FineTuneJobGpuIdle: below 5 %.",
        unit="percentunit",
        width=6,
        queries=(Query(f"max by (device) (finetune_gpu_utilization_ratio{{{_JOB}}})", "GPU {{device}}"),),
    ),
    Panel(
        title="GPU memory",
        description="Memory in use of each GPU of rank 0's machine, and what it has.",
        unit="bytes",
        width=6,
        queries=(
            Query(f"max by (device) (finetune_gpu_memory_used_bytes{{{_JOB}}})", "GPU {{device}}"),
            Query(f"max(finetune_gpu_memory_total_bytes{{{_JOB}}})", "a whole GPU"),
        ),
    ),
    Panel(
        title="GPU temperature",
        description="Temperature of each GPU of rank 0's machine. Cards slow down in the high eighties.",
        unit="celsius",
        width=6,
        queries=(Query(f"max by (device) (finetune_gpu_temperature_celsius{{{_JOB}}})", "GPU {{device}}"),),
    ),
    Panel(
        title="GPU power",
        description="Power that each GPU of rank 0's machine draws; low power at high utilisation means small kernels.",
        unit="watt",
        width=6,
        queries=(Query(f"max by (device) (finetune_gpu_power_watts{{{_JOB}}})", "GPU {{device}}"),),
    ),
)
JOB: Final = Board(
    uid="finetune-job",
    title="Fine-tuning / Job",
    description="One FineTuneJob: state, learning, speed, checkpoints, machine.",
    variables=(
        Variable(name="namespace", values="label_values(finetune_job_state, namespace)"),
        Variable(name="name", values='label_values(finetune_job_state{namespace="$namespace"}, name)'),
    ),
    rows={
        "Now": _NOW,
        "Learning": _LEARNING,
        "Speed and checkpoints": _SPEED,
        "Process": _MACHINE,
        "GPUs of rank 0's machine": _GPUS,
    },
)
