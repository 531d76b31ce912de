"""The operator on a real API server without nodes: bursts, latency, writes, CPU, memory, idling, recovery.

Prints one row per figure with its bar and writes the same as JSON under bench/results/. Exits 0 only if every bar is
met. The floor is a plain client that posts the same FineTuneJobs and the same Jobs itself, with the same concurrency,
against the same servers, in the same run. `--burst N --many N` shrink it for a quick look; the bars are meant for 1,000
and 10,000. Figures of Kubeflow Trainer 2.3 with JobSet 0.12, where a row names them, were taken on 2 cores as well.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Run with -P: in this folder a file named operator.py would hide the standard library's module.
sys.path[:0] = [str(ROOT / "tests")]

from support.load import Load, Setting, started_setting, write_counts

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Row:
    """One figure."""

    name: str
    value: float
    unit: str
    bar: str = ""
    met: bool = True
    note: str = ""


def most(name: str, value: float, unit: str, bar: float, note: str = "") -> Row:
    """Return a row that is met at or below its bar."""
    return Row(name, value, unit, f"<= {bar:g}", value <= bar, note)


def least(name: str, value: float, unit: str, bar: float, note: str = "") -> Row:
    """Return a row that is met at or above its bar."""
    return Row(name, value, unit, f">= {bar:g}", value >= bar, note)


async def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--burst", type=int, default=1000)
    parser.add_argument("--many", type=int, default=10000)
    parser.add_argument("--latency-s", type=float, default=30.0, help="seconds of steady load per rate")
    parser.add_argument("--idle-s", type=float, default=60.0)
    parser.add_argument("--lifecycles", type=int, default=100, help="jobs that are played to their end")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        async with started_setting(Path(folder)) as setting:
            steps = (
                burst(setting, arguments.burst, rows, rate_bar=110.0),
                *(latency(setting, *each, arguments.latency_s, rows) for each in ((5, 15.0), (20, 40.0))),
                lifecycles(setting, arguments.lifecycles, rows),
                broken_watch(setting, rows),
                burst(setting, arguments.many, rows, rate_bar=None),
                idle(setting, arguments.idle_s, rows),
                killed(setting, rows),
            )
            for step in steps:
                known = len(rows)
                await step
                show(rows[known:])
    document = {
        "at": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": {"cpus": len(os.sched_getaffinity(0)), "platform": platform.platform(), "cpu": cpu_name()},
        "arguments": vars(arguments),
        "rows": [asdict(each) for each in rows],
    }
    (ROOT / "bench" / "results" / "operator.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0 if all(each.met for each in rows) else 1


async def burst(setting: Setting, count: int, rows: list[Row], rate_bar: float | None) -> None:
    """Post jobs as fast as the servers take them, by the plain client and then to the operator."""
    async with Load(setting, f"floor-{count}") as load:
        # The operator is stopped meanwhile: it would post the same Jobs.
        await asyncio.to_thread(setting.operator.terminate)
        floor_s = await load.post_jobs_and_children(count)
        await load.drop()
    await asyncio.to_thread(setting.operator.start)
    before, cpu_before, api_before = write_counts(setting), setting.operator.cpu_s(), setting.plane.cpu_s()
    async with Load(setting, f"burst-{count}") as load:
        took_s = await load.post_jobs(count)
        cpu_s = setting.operator.cpu_s() - cpu_before
        api_s = setting.plane.cpu_s() - api_before
        made = write_counts(setting) - before
        note = f"floor {floor_s:.2f} s, ours {took_s:.2f} s; CPU: operator {cpu_s:.1f} s, servers {api_s:.1f} s"
        rows.append(most(f"burst of {count}: time to all Jobs / floor", took_s / floor_s, "x", 1.5, note))
        if rate_bar is not None:
            rate = count / took_s
            rows.append(least(f"burst of {count}: Jobs made", rate, "1/s", rate_bar, "Kubeflow Trainer: 24-32"))
        rows.append(Row(f"burst of {count}: CPU of the operator per job", 1000 * cpu_s / count, "ms"))
        rows.append(Row(f"burst of {count}: writes per job", sum(made.values()) / count, "", note=shown(made)))
        if count < 5000:
            await load.drop()


async def latency(setting: Setting, rate: int, bar_ms: float, seconds: float, rows: list[Row]) -> None:
    """Post at a steady rate; time from the accepted FineTuneJob to its Job's event, by the plain client and by us."""
    count = int(rate * seconds)
    async with Load(setting, f"floor-{rate}") as load:
        await asyncio.to_thread(setting.operator.terminate)
        floor = sorted(await load.post_steadily(rate, count, children=True))
        await load.drop()
    await asyncio.to_thread(setting.operator.start)
    async with Load(setting, f"steady-{rate}") as load:
        found = sorted(await load.post_steadily(rate, count))
        note = f"{middle_and_p99(found)}, floor {middle_and_p99(floor)}, {count} jobs; Kubeflow Trainer at 5/s: 39-47"
        rows.append(most(f"FineTuneJob to Job at {rate}/s, p99", 1000 * p99(found), "ms", bar_ms, note))
        await load.drop()


def p99(times: list[float]) -> float:
    """Return the 99th percentile of sorted times."""
    return times[min(len(times) - 1, int(0.99 * len(times)))]


def middle_and_p99(times: list[float]) -> str:
    """Return median and 99th percentile of sorted times, in words."""
    return f"median {1000 * statistics.median(times):.1f} ms, p99 {1000 * p99(times):.1f} ms"


async def lifecycles(setting: Setting, count: int, rows: list[Row]) -> None:
    """Play jobs from their creation to Complete; writes and CPU over the whole of it."""
    async with Load(setting, "lives") as load:
        before, cpu_before = write_counts(setting), setting.operator.cpu_s()
        await load.post_jobs(count)
        await load.play_to_the_end(count)
        made = write_counts(setting) - before
        counted = sum(n for what, n in made.items() if not what.startswith(("create events", "patch events")))
        cpu_ms = 1000 * (setting.operator.cpu_s() - cpu_before) / count
        rows.append(most("writes per job, created to Complete", counted / count, "", 3.0, shown(made)))
        rows.append(most("CPU of the operator per job, created to Complete", cpu_ms, "ms", 2.5, "Kubeflow Trainer: 15"))
        await load.drop()


async def idle(setting: Setting, seconds: float, rows: list[Row]) -> None:
    """Do nothing for a while with every job of the large burst in place, once each was told that no node takes it."""
    before = write_counts(setting)
    await asyncio.sleep(40)
    while (now := write_counts(setting)) != before:
        before = now
        await asyncio.sleep(10)
    before, cpu_before, at = write_counts(setting), setting.operator.cpu_s(), time.monotonic()
    await asyncio.sleep(seconds)
    made = write_counts(setting) - before
    share = 100 * (setting.operator.cpu_s() - cpu_before) / (time.monotonic() - at)
    rows.append(most("idle: writes", sum(made.values()), "", 0, shown(made)))
    rows.append(most("idle: CPU of the operator", share, "%", 1.0))
    rows.append(most("RSS of the operator", setting.operator.rss() / 2**20, "MiB", 128.0))


async def killed(setting: Setting, rows: list[Row]) -> None:
    """Kill the operator, post one job, start it again."""
    async with Load(setting, "killed") as load:
        setting.operator.kill()
        appeared = await load.await_job_of("first")
        started = time.monotonic()
        await asyncio.to_thread(setting.operator.start)
        took_s = await appeared - started
        rows.append(most("SIGKILL: start to the first new Job", took_s, "s", 3.0, "Kubeflow Trainer, 1,000 jobs: 17"))


async def broken_watch(setting: Setting, rows: list[Row]) -> None:
    """Break every watch with an ERROR event and post a job at once."""
    found = []
    async with Load(setting, "broken") as load:
        for number in range(5):
            setting.proxy.watch_error(500)
            appeared = await load.await_job_of(f"j{number}")
            found.append(await appeared - load.posted_at)
            await asyncio.sleep(1.0)
        rows.append(most("broken watch: FineTuneJob to Job, worst of 5", max(found), "s", 1.0))
        await load.drop()


def shown(made: "Counter[str]") -> str:
    """Return counts in words."""
    return ", ".join(f"{what} {count}" for what, count in sorted(made.items())) or "none"


def cpu_name() -> str:
    """Return the CPU's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def show(rows: list[Row]) -> None:
    """Print the table."""
    for each in rows:
        verdict = "" if not each.bar else ("met" if each.met else "MISSED")
        print(f"{each.name:<52}{each.value:>10.2f} {each.unit:<5}{each.bar:>9} {verdict:<7} {each.note}", flush=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
