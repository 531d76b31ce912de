"""One job in full, for people: what it is, how far it is, what was decided, how it ended. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from finetune_cli.cluster_table import aligned
from finetune_cli.cluster_words import attempt_of, clean_lines, status_of, when
from finetune_operator.diagnose_text import clean
from finetune_operator.observe import Object


def detail_lines(job: Object, now: datetime) -> Iterator[str]:
    """Yield one job's state as lines."""
    rows = [[f"{name}:", text] for name, text in (*_identity(job), *_course(job, now)) if text]
    yield from aligned(rows, [])
    status = status_of(job)
    yield from _section("Conditions", _conditions(status, now))
    yield from _section("Resolved", [[clean(name), clean(text)] for name, text in _items(status.get("resolved"))])
    yield from _section("Result", _result(status.get("result") or {}))
    yield from _section("Last end" if status.get("phase") == "Restarting" else "Failure", _failure(status))


def _identity(job: Object) -> Iterator[tuple[str, str]]:
    metadata, spec = job["metadata"], job["spec"]
    yield "Name", metadata["name"]
    yield "Namespace", metadata["namespace"]
    method = (spec.get("method") or {}).get("type", "")
    yield "Task", f"{spec['task']}, {method} of {clean(spec['model']['uri'])}"
    nodes = (spec.get("workers") or {}).get("nodes", 1)
    yield "Workers", f"{nodes} nodes" if nodes > 1 else ""
    yield "Queue", (spec.get("scheduling") or {}).get("queue", "")


def _course(job: Object, now: datetime) -> Iterator[tuple[str, str]]:
    status = status_of(job)
    yield "Phase", status.get("phase") or "none yet: the operator has told nothing"
    limit = (job["spec"].get("restarts") or {}).get("limit", 5)
    yield "Attempt", f"{attempt_of(job)}, {status.get('restarts', 0)} of {limit} restarts used"
    yield "Created", when(job["metadata"]["creationTimestamp"], now)
    yield "Started", when(status.get("startTime"), now)
    yield "Finished", when(status.get("completionTime"), now)
    yield "Progress", progress_words(status.get("progress") or {}, now)
    finished = status.get("completionTime")
    yield "Expected end", "" if finished else when((status.get("progress") or {}).get("eta"), now)
    saved = status.get("checkpoint") or {}
    if saved:
        at = f", saved {when(saved['savedAt'], now)}" if saved.get("savedAt") else ""
        yield "Checkpoint", f"step {saved['step']}{at}{', verified' if saved.get('verified') else ''}"


def progress_words(progress: Mapping[str, Any], now: datetime) -> str:
    """Return how far training is, and when that was told; empty when nothing was told."""
    if not progress:
        return ""
    parts = [clean(progress.get("display") or f"{progress['step']}/{progress['maxSteps']}")]
    parts += [f"epoch {progress['epoch']}"] if progress.get("epoch") else []
    parts += [f"loss {progress['loss']}"] if progress.get("loss") else []
    parts += [f"{progress['samplesPerSecond']} samples/s"] if progress.get("samplesPerSecond") else []
    parts += [f"told {when(progress['updatedAt'], now)}"] if progress.get("updatedAt") else []
    return ", ".join(parts)


def _conditions(status: Mapping[str, Any], now: datetime) -> list[list[str]]:
    rows = [
        [
            each["type"],
            each["status"],
            clean(each["reason"]),
            when(each["lastTransitionTime"], now),
            clean(each.get("message", "")),
        ]
        for each in status.get("conditions") or ()
    ]
    return [["TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"], *rows] if rows else []


def _result(result: Mapping[str, Any]) -> list[list[str]]:
    rows = [[clean(name), value] for name, value in _items(result.get("metrics"))]
    artifact = result.get("artifact") or {}
    if artifact:
        rows += [["artifact", clean(artifact["uri"])], ["digest", clean(artifact["digest"])]]
        rows += [["formats", ", ".join(artifact["formats"])]] if artifact.get("formats") else []
    rows += [["report", clean(result["report"])]] if result.get("report") else []
    return rows


def _failure(status: Mapping[str, Any]) -> list[list[str]]:
    failure = status.get("failure") or {}
    if not failure:
        return []
    rank = f", rank {failure['rank']}" if "rank" in failure else ""
    rows = [["reason", f"{failure['reason']} (exit code {failure['exitCode']}{rank})"]]
    for name in ("message", "remedy"):
        rows += [["" if at else name, line] for at, line in enumerate(clean_lines(failure.get(name, "")))]
    return rows


def _section(title: str, rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if rows:
        yield f"{title}:"
        yield from (f"  {line.rstrip()}" for line in aligned(rows, []))


def _items(values: Mapping[str, str] | None) -> Iterator[tuple[str, str]]:
    yield from sorted((values or {}).items())
