"""Start the processes of this machine, watch them, and say with one result why they ended.

One process is started directly, several by `torch.distributed.run`, on several machines with a launcher each. torchrun
turns every exit code into 1, so the ranks leave their results in files and the root cause is read from those. Imports
no torch: it is the parent of a program that may run out of memory.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, Protocol

from finetune_api.exit_codes import COMPLETE, Reason, exit_code
from finetune_api.names import EVENTS_FILE, MOUNT_PROGRESS, RENDEZVOUS_PORT, RESULT_FILE
from finetune_api.result import Result
from finetune_api.run_config import RunConfig
from finetune_trainer.node import ENV_RANK_FOLDER, Node
from finetune_trainer.posting import Poster
from finetune_trainer.verdict import Ending, judge

_POLL_S: Final = 0.05
_RENDEZVOUS_AGAIN_S: Final = 2.0
# Activations of a step are freed and wanted again by the next one. By default glibc returns blocks above 32 MiB to the
# kernel each time, and faulting their pages in costs 10 to 15 % of a step on a CPU; see
# docs/decisions/0004-cpu-speed.md.
ALLOCATOR: Final = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
_OOM_COUNTERS: Final = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSettings:
    """What the environment decides."""

    stall_s: float = 900.0
    """How long silence is tolerated."""
    grace_s: float = 110.0
    """How long a stop may take."""
    termination_log: Path | None = None
    """Where the result is reported besides the work folder."""
    node: int = 0
    """Which of the machines this is: the pod's completion index."""
    port: int = RENDEZVOUS_PORT
    """Where the machines meet, at node 0."""
    token_file: Path = Path(MOUNT_PROGRESS) / "token"
    """Token for posting progress."""
    parent: int | None = None
    """The process without which nobody waits for the result; a pod's has none."""


class Child(Protocol):
    """A process that was started, leading a session of its own; as subprocess.Popen has it."""

    pid: int

    @property
    def returncode(self) -> int:
        """Exit code once it ended, negative for a signal."""
        ...

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        ...

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        ...

    def send_signal(self, sig: int, /) -> None:
        """Signal it."""
        ...


class Launcher:
    """Runs the processes of one attempt on this machine."""

    def __init__(
        self,
        config_file: Path,
        sha256: str,
        config: RunConfig,
        settings: LaunchSettings,
        fork: Callable[[Mapping[str, str]], Child] | None = None,
    ) -> None:
        """Remember what to start.

        Args:
            config_file: The run configuration's file, for the processes.
            sha256: Its digest.
            config: The same, read.
            settings: What the environment decides.
            fork: Starts a single process from its environment where torch is loaded already; None starts Python anew.
        """
        self._fork = fork
        self._trainer = ["run", "--config", str(config_file), "--sha256", sha256]
        self._config = config
        self._settings = settings
        self._work = Path(config.paths.work)
        self._stop_at: float | None = None

    def run(self) -> int:
        """Run to the end.

        Returns:
            The exit code that carries the reason.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        self._work.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="finetune-ranks-"))
        node = Node(self._config, self._settings.node, self._settings.port, folder)
        poster = None
        if node.is_main:
            (self._work / RESULT_FILE).unlink(missing_ok=True)
            if self._config.progress is not None:
                poster = Poster(self._config.progress, self._work / EVENTS_FILE, self._settings.token_file)
                poster.start()
        try:
            result = self._train(node)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._publish(result, node)
        if poster is not None:
            poster.stop()
        return _code(result)

    def _train(self, node: Node) -> Result:
        kills_before = _oom_kills()
        deadline = time.monotonic() + self._config.spec.pending_deadline_seconds
        wait_s = _RENDEZVOUS_AGAIN_S
        while True:
            child = self._start(node, deadline - time.monotonic())
            stalled = self._wait(child, node)
            # A peer that is being ended, or not there yet, costs another try and not the attempt.
            met = node.beats() or self._config.nodes == 1
            if met or stalled or time.monotonic() + wait_s > deadline or self._pause(wait_s):
                break
            wait_s = min(30.0, wait_s * 2)
        ending = Ending(
            ranks=node.ranks,
            found=node.results(),
            started=bool(node.beats()),
            code=child.returncode,
            asked_to_stop=self._stop_at is not None,
            stalled_s=self._settings.stall_s if stalled else None,
            oom_killed=_oom_kills() > kills_before,
            alone=self._config.nodes == 1,
        )
        return judge(ending, self._work)

    def _start(self, node: Node, wait_s: float) -> Child:
        if self._fork is not None and self._config.processes == 1:
            return self._fork(self._environment(node))
        command = node.command(self._trainer, wait_s, self._settings.grace_s)
        return subprocess.Popen(command, start_new_session=True, env=self._environment(node))

    def _pause(self, wait_s: float) -> bool:
        """Wait; return whether a stop was asked for before or meanwhile."""
        end = time.monotonic() + wait_s
        while not self._must_stop() and time.monotonic() < end:
            time.sleep(_POLL_S)
        return self._stop_at is not None

    def _environment(self, node: Node) -> Mapping[str, str]:
        settings = dict(ALLOCATOR)
        if self._config.processes > 1:
            # The trainer sets its threads itself; torchrun warns unless a number is given.
            settings["OMP_NUM_THREADS"] = "1"
        return settings | dict(os.environ) | {ENV_RANK_FOLDER: str(node.folder)}  # noqa: TID251 - the rim

    def _ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_at = self._stop_at or time.monotonic()

    def _must_stop(self) -> bool:
        """Tell whether a stop was asked for, or the parent is gone."""
        if self._settings.parent not in {None, os.getppid()}:
            self._stop_at = self._stop_at or time.monotonic()
        return self._stop_at is not None

    def _wait(self, child: Child, node: Node) -> bool:
        """Wait for the end, forward a request to stop, end what hangs; return whether it stalled."""
        forwarded = False
        last_sign = time.time()
        limit_s = self._settings.stall_s
        while child.poll() is None:
            time.sleep(_POLL_S)
            if self._must_stop() and not forwarded:
                _signal(child, signal.SIGTERM)
                forwarded = True
            if self._stop_at is not None and time.monotonic() - self._stop_at > self._settings.grace_s:
                _signal(child, signal.SIGKILL)
            beats = node.beats()
            # The slowest rank decides: the others wait for it.
            last_sign = max(last_sign, min(beats)) if len(beats) == len(node.ranks) else last_sign
            # Until they start, the ranks may have to wait for other machines.
            waiting = not beats and self._config.nodes > 1
            silent_s = time.time() - last_sign
            if silent_s > limit_s + (self._config.spec.pending_deadline_seconds if waiting else 0):
                _signal(child, signal.SIGKILL)
                child.wait()
                return True
        return False

    def _publish(self, result: Result, node: Node) -> None:
        text = result.to_json()
        if self._settings.termination_log is not None:
            self._settings.termination_log.write_text(text, encoding="utf-8")
        if not node.is_main:
            # The work folder may be shared, and the result of a run is that of the machine with rank 0.
            return
        try:
            aside = self._work / f".{RESULT_FILE}"
            aside.write_text(text, encoding="utf-8")
            aside.replace(self._work / RESULT_FILE)
        except OSError as error:
            sys.stderr.write(f"{self._work / RESULT_FILE}: cannot be written: {error}\n")


def _code(result: Result) -> int:
    if result.outcome == "Complete":
        return COMPLETE
    if result.outcome == "Interrupted":
        return exit_code(Reason.PREEMPTED)
    return result.failure.exit_code if result.failure else exit_code(Reason.UNKNOWN)


def _signal(child: Child, number: signal.Signals) -> None:
    """Signal a child; SIGKILL goes to its whole session, since torchrun would leave its ranks behind."""
    try:
        if number == signal.SIGKILL:
            os.killpg(child.pid, number)
        else:
            child.send_signal(number)
    except ProcessLookupError:
        return


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
