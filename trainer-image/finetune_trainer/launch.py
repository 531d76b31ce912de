"""Start the processes of a run, watch them, and say with one result why they ended.

One process is started directly, several by `torch.distributed.run`. torchrun turns every exit code into 1, so the ranks
leave their results in files and the root cause is read from those. Imports no torch: it is the parent of a program that
may run out of memory.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from finetune_api.exit_codes import COMPLETE, Reason, exit_code
from finetune_api.names import CHECKPOINTS_DIR, RESULT_FILE, rank_result_file
from finetune_api.result import CheckpointRef, Failure, Result
from finetune_api.run_config import RunConfig

_POLL_S = 0.1
# Activations of a step are freed and wanted again by the next one. By default glibc returns blocks above 32 MiB to the
# kernel each time, and faulting their pages in costs 10 to 15 % of a step on a CPU; see
# docs/decisions/0004-cpu-speed.md.
_ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
_SECONDARY = frozenset({Reason.RENDEZVOUS_FAILED, Reason.COLLECTIVE_TIMEOUT, Reason.PREEMPTED})
_OOM_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """What the environment decides: how long silence is tolerated, how long a stop may take, where to report."""

    stall_s: float = 900.0
    grace_s: float = 110.0
    termination_log: Path | None = None


class Launcher:
    """Runs the processes of one attempt."""

    def __init__(self, config_file: Path, sha256: str, config: RunConfig, settings: LaunchSettings) -> None:
        """Remember what to start."""
        self._config_file = config_file
        self._sha256 = sha256
        self._config = config
        self._settings = settings
        self._work = Path(config.paths.work)
        self._stop_at: float | None = None

    def run(self) -> int:
        """Run to the end.

        Returns:
            The exit code that carries the reason.
        """
        self._work.mkdir(parents=True, exist_ok=True)
        for pattern in ("result*.json", "heartbeat-*"):
            for stale in self._work.glob(pattern):
                stale.unlink()
        kills_before = _oom_kills()
        child = subprocess.Popen(self._command(), start_new_session=True, env=self._environment())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        stalled = self._wait(child)
        result = self._result(child.returncode, stalled=stalled, oom_killed=_oom_kills() > kills_before)
        return self._publish(result)

    def _command(self) -> list[str]:
        verb = ["run", "--config", str(self._config_file), "--sha256", self._sha256]
        if self._config.processes == 1:
            return [sys.executable, "-m", "finetune_trainer", *verb]
        torchrun = ["--standalone", f"--nproc-per-node={self._config.processes}", "--max-restarts=0"]
        return [sys.executable, "-m", "torch.distributed.run", *torchrun, "-m", "finetune_trainer", *verb]

    def _environment(self) -> Mapping[str, str]:
        settings = dict(_ALLOCATOR)
        if self._config.processes > 1:
            # The trainer sets its threads itself; torchrun warns unless a number is given.
            settings["OMP_NUM_THREADS"] = "1"
        return settings | dict(os.environ)  # noqa: TID251 - the rim

    def _ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_at = self._stop_at or time.monotonic()

    def _wait(self, child: subprocess.Popen[bytes]) -> bool:
        """Wait for the end, forward a request to stop, end what hangs; return whether it stalled."""
        forwarded = False
        last_sign = time.time()
        while child.poll() is None:
            time.sleep(_POLL_S)
            if self._stop_at is not None and not forwarded:
                _signal(child, signal.SIGTERM)
                forwarded = True
            if self._stop_at is not None and time.monotonic() - self._stop_at > self._settings.grace_s:
                _signal(child, signal.SIGKILL)
            beats = [_modified(path) for path in self._work.glob("heartbeat-*")]
            # The slowest rank decides: the others wait for it.
            last_sign = max(last_sign, min(beats)) if len(beats) == self._config.processes else last_sign
            if time.time() - last_sign > self._settings.stall_s:
                _signal(child, signal.SIGKILL)
                child.wait()
                return True
        return False

    def _result(self, code: int, *, stalled: bool, oom_killed: bool) -> Result:
        if stalled:
            return self._failed(
                Reason.STALLED,
                f"one of the processes gave no sign of progress for {self._settings.stall_s:.0f} s",
                "It is started again from the newest checkpoint.",
            )
        found: list[tuple[float, int, Result]] = []
        for rank in range(self._config.processes):
            path = self._work / rank_result_file(rank)
            try:
                result = Result.from_json(path.read_bytes())
            except (OSError, ValueError):
                continue
            found.append((_modified(path), rank, result))
        failures = sorted((_weight(each), at, rank, each) for at, rank, each in found if each.failure is not None)
        missing = len(found) < self._config.processes
        if failures and (failures[0][0] == 0 or not missing):
            rank, result = failures[0][2], failures[0][3]
            assert result.failure is not None, "internal: a failure without its reason"
            return result.model_copy(update={"failure": result.failure.model_copy(update={"rank": rank})})
        if missing:
            return self._died(code, oom_killed=oom_killed, found=[rank for _, rank, _ in found])
        return next(each for _, rank, each in found if rank == 0)

    def _died(self, code: int, *, oom_killed: bool, found: list[int]) -> Result:
        silent = sorted(set(range(self._config.processes)) - set(found))
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        who = f"process {', '.join(map(str, silent))} left no result; it {how}"
        if oom_killed:
            return self._failed(
                Reason.HOST_OUT_OF_MEMORY,
                f"{who}, and the kernel's out-of-memory counter rose",
                "Give more memory, or lower training.batchSize or data.maxLength.",
            )
        return self._failed(Reason.UNKNOWN, who, "Read the output above; the newest checkpoint is kept.", silent[0])

    def _failed(self, reason: Reason, message: str, remedy: str, rank: int | None = None) -> Result:
        newest = max(self._work.glob(f"{CHECKPOINTS_DIR}/step-*"), key=lambda path: path.name, default=None)
        place = None
        if newest is not None:
            step = int(newest.name.removeprefix("step-"))
            place = CheckpointRef(step=step, path=f"{CHECKPOINTS_DIR}/{newest.name}")
        return Result(
            outcome="Failed",
            step=place.step if place else 0,
            failure=Failure.of(reason, message, remedy, rank),
            checkpoint=place,
        )

    def _publish(self, result: Result) -> int:
        text = result.to_json()
        aside = self._work / f".{RESULT_FILE}"
        aside.write_text(text, encoding="utf-8")
        aside.replace(self._work / RESULT_FILE)
        if self._settings.termination_log is not None:
            self._settings.termination_log.write_text(text, encoding="utf-8")
        if result.outcome == "Complete":
            return COMPLETE
        if result.outcome == "Interrupted":
            return exit_code(Reason.PREEMPTED)
        return result.failure.exit_code if result.failure else exit_code(Reason.UNKNOWN)


def write_rank_result(work: Path, rank: int, result: Result) -> None:
    """Leave a rank's result for the launcher, whole or not at all."""
    aside = work / f".{rank_result_file(rank)}"
    aside.write_text(result.to_json(), encoding="utf-8")
    aside.replace(work / rank_result_file(rank))


def _weight(result: Result) -> int:
    """Return 1 for a failure that follows from another process's, 0 for one of its own."""
    return int(result.failure is not None and result.failure.reason in _SECONDARY)


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal a child; SIGKILL goes to its whole session, since torchrun would leave its ranks behind."""
    try:
        if number == signal.SIGKILL:
            os.killpg(child.pid, number)
        else:
            child.send_signal(number)
    except ProcessLookupError:
        return


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _oom_kills() -> int:
    for path in _OOM_COUNTERS:
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


def read_config(file: Path, sha256: str) -> RunConfig:
    """Read the run configuration; one that was changed on its way is refused by its digest."""
    return RunConfig.from_json(file.read_bytes(), sha256=sha256)
