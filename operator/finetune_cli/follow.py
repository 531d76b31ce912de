"""Start the trainer as a process, read its events as they appear, forward a request to stop.

The trainer notices when this process is gone: it saves its step and stops, as after Ctrl-C.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Protocol

from finetune_api.names import EVENTS_FILE, RESULT_FILE
from finetune_api.progress import ProgressEvent
from finetune_api.result import Result
from finetune_cli.claim import claimed
from finetune_cli.resolve import Run

_POLL_S = 0.1
LOG_FILE = "trainer.log"


class Child(Protocol):
    """A launcher that was started, leading a session of its own; as subprocess.Popen has it."""

    @property
    def pid(self) -> int:
        """Its process."""
        ...

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal; None while it runs."""
        ...

    def send_signal(self, sig: int, /) -> None:
        """Signal it."""
        ...


def start_trainer(config_file: Path, sha256: str, log: Path, held: int) -> Child:
    """Start a launcher.

    Args:
        config_file: The run configuration's file.
        sha256: Its digest.
        log: What its output is appended to.
        held: A descriptor that it holds as long as it lives.

    Returns:
        The launcher.
    """
    command = [sys.executable, "-m", "finetune_trainer", "launch"]
    command += ["--config", str(config_file), "--sha256", sha256, "--parent", str(os.getpid())]
    with log.open("ab") as stream:
        # Its own session: Ctrl-C reaches this command alone, which asks once and kills on the second request.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            pass_fds=(held,),
        )


Start = Callable[[Path, str, Path, int], Child]
"""Starts a launcher, as `start_trainer` does."""


class Follower:
    """One run of the trainer, from start to result."""

    def __init__(
        self,
        run: Run,
        on_event: Callable[[ProgressEvent], None],
        start: Start = start_trainer,
    ) -> None:
        """Remember what to start.

        Args:
            run: The run.
            on_event: Told each event in order.
            start: Starts the launcher.
        """
        self._run = run
        self._on_event = on_event
        self._start = start
        self._stops = 0
        self._child: Child | None = None

    @property
    def interrupted(self) -> bool:
        """Whether this command was asked to stop meanwhile."""
        return self._stops > 0

    def stop(self) -> None:
        """Ask the trainer to save and leave."""
        assert self._child is not None, "internal: a stop before the start"
        self._child.send_signal(signal.SIGTERM)

    def go(self) -> tuple[Result | None, int]:
        """Run to the end; WorkFolderBusy tells that another command runs in the same work folder.

        Returns:
            The result, None when the trainer left none, and the trainer's exit code.
        """
        self._run.work.mkdir(parents=True, exist_ok=True)
        with claimed(self._run.work, self._tell_wait) as held:
            return self._follow(held)

    def _tell_wait(self) -> None:
        sys.stderr.write(f"{self._run.work}: an earlier run saves its last step; waiting for it\n")

    def _follow(self, held: int) -> tuple[Result | None, int]:
        self._run.begin()
        sha256 = self._run.write()
        (self._run.work / RESULT_FILE).unlink(missing_ok=True)
        events = self._run.work / EVENTS_FILE
        position = events.stat().st_size if events.exists() else 0
        self._child = self._start(self._run.config_file, sha256, self._run.work / LOG_FILE, held)
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while (code := self._child.poll()) is None:
                position = self._read(events, position)
                time.sleep(_POLL_S)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        self._read(events, position)
        return self._result(), code

    def log_tail(self, lines: int = 20) -> str:
        """Return the end of the trainer's own output."""
        path = self._run.work / LOG_FILE
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        assert self._child is not None, "internal: a signal before the start"
        self._stops += 1
        if self._stops == 1:
            self.stop()
        else:
            os.killpg(self._child.pid, signal.SIGKILL)

    def _read(self, events: Path, position: int) -> int:
        """Hand on every whole line beyond a position and return the new one."""
        if not events.exists():
            return position
        with events.open("rb") as stream:
            stream.seek(position)
            data = stream.read()
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].splitlines():
            self._on_event(ProgressEvent.from_json(line))
        return position + whole

    def _result(self) -> Result | None:
        try:
            return Result.from_json((self._run.work / RESULT_FILE).read_bytes())
        except (OSError, ValueError):
            return None
