"""The board of the operator itself: does it act, does it keep up, can it write, what does it cost."""

from typing import Final

from panels import Board, Kind, Panel, Query

_OURS: Final = "and on (job, instance) finetune_operator_acting"


def _pass_quantile(part: float) -> str:
    sums = "sum by (le) (rate(finetune_operator_reconcile_seconds_bucket[$__rate_interval]))"
    return f"histogram_quantile({part}, {sums})"


_HEALTH: Final = (
    Panel(
        title="Operators that act",
        description="1 is right: one of several holds the Lease. Alert FineTuneOperatorDown: none for 2 minutes.",
        unit="none",
        kind=Kind.NUMBER,
        width=8,
        queries=(Query("sum(finetune_operator_acting)"),),
    ),
    Panel(
        title="Jobs held",
        description="FineTuneJobs that the operator knows, finished ones until they are deleted.",
        unit="none",
        kind=Kind.NUMBER,
        width=8,
        queries=(Query("sum(finetune_operator_jobs)"),),
    ),
    Panel(
        title="Started before",
        description="Time since each operator was started.",
        unit="dtdurations",
        kind=Kind.NUMBER,
        queries=(Query(f"time() - process_start_time_seconds {_OURS}", "{{instance}}"),),
    ),
    Panel(
        title="Jobs by phase and reason",
        description="As the operator sees them, with the reason of condition Running.",
        unit="none",
        kind=Kind.AREAS,
        width=24,
        queries=(Query("sum by (phase, reason) (finetune_operator_jobs)", "{{phase}}: {{reason}}"),),
    ),
)
_PASSES: Final = (
    Panel(
        title="Jobs that wait for a pass",
        description="Nearly always 0; a depth that stays means that writes are slow or refused.",
        unit="none",
        queries=(Query("sum by (instance) (finetune_operator_queue_depth)", "{{instance}}"),),
    ),
    Panel(
        title="Time of a pass",
        description="Of one job: observe, decide, plan, write. Mostly the time that the API server takes to write.",
        unit="s",
        queries=(Query(_pass_quantile(0.5), "median"), Query(_pass_quantile(0.99), "99 %")),
    ),
    Panel(
        title="Passes",
        description="Passes per second.",
        unit="ops",
        queries=(Query("sum(rate(finetune_operator_reconcile_seconds_count[$__rate_interval]))", "passes"),),
    ),
)
_WRITES: Final = (
    Panel(
        title="Writes",
        description="Writes to the API server, by verb and resource. A job needs three: its Job, Running, its end.",
        unit="ops",
        queries=(
            Query(
                "sum by (verb, resource) (rate(finetune_operator_writes_total[$__rate_interval]))",
                "{{verb}} {{resource}}",
            ),
        ),
    ),
    Panel(
        title="Writes that failed",
        description="By result. Conflict is decided anew; a Forbidden creation is often a quota.",
        unit="ops",
        queries=(
            Query(
                "sum by (verb, resource, result) "
                '(rate(finetune_operator_writes_total{result!="ok"}[$__rate_interval]))',
                "{{verb}} {{resource}}: {{result}}",
            ),
        ),
    ),
    Panel(
        title="Watches started again",
        description="Watches that broke, by resource. Each ends after some minutes anyway, without breaking.",
        unit="none",
        decimals=0,
        kind=Kind.BARS,
        queries=(
            Query("sum by (resource) (increase(finetune_operator_watch_restarts_total[$__range]))", "{{resource}}"),
        ),
    ),
    Panel(
        title="Progress posts",
        description="Posts of trainers by verdict. What is not accepted comes from old attempts, or meets a standby.",
        unit="ops",
        width=12,
        queries=(
            Query("sum by (verdict) (rate(finetune_operator_progress_posts_total[$__rate_interval]))", "{{verdict}}"),
        ),
    ),
    Panel(
        title="Failures written",
        description="Failures written to a status, by reason, in the chosen time.",
        unit="none",
        decimals=0,
        kind=Kind.BARS,
        width=12,
        queries=(Query("sum by (reason) (increase(finetune_operator_failures_total[$__range])) > 0", "{{reason}}"),),
    ),
)
_COST: Final = (
    Panel(
        title="Memory",
        description="Resident memory of each operator. 10,000 jobs need at most 128 MiB.",
        unit="bytes",
        queries=(Query(f"process_resident_memory_bytes {_OURS}", "{{instance}}"),),
    ),
    Panel(
        title="CPU",
        description="CPUs that each operator keeps busy.",
        unit="none",
        queries=(Query(f"rate(process_cpu_seconds_total[$__rate_interval]) {_OURS}", "{{instance}}"),),
    ),
    Panel(
        title="Open files",
        description="File descriptors of each operator: connections to the API server, and of trainers that post.",
        unit="none",
        queries=(
            Query(f"process_open_fds {_OURS}", "{{instance}}"),
            Query(f"process_max_fds {_OURS}", "{{instance}}, at most"),
        ),
    ),
)
OPERATOR: Final = Board(
    uid="finetune-operator",
    title="Fine-tuning / Operator",
    description="The operator: passes, writes, watches, posts, CPU and memory.",
    variables=(),
    rows={"Health": _HEALTH, "Passes": _PASSES, "API server and trainers": _WRITES, "Cost": _COST},
)
