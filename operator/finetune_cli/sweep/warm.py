"""Start trainers by a process that has torch loaded already: a short trial would spend most of its time importing it.

It is the trainer's own `warm` verb, talked to by lines; the command still imports nothing of the trainer.
"""

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self


class WarmTrainer:
    """The process that forks; a context, which ends it."""

    def __init__(self, lock: int, log: Path) -> None:
        """Remember how to start it; a sweep that is done already needs none.

        Args:
            lock: A descriptor that it and its trainers hold as long as one of them lives; the sweep's own.
            log: Where its own output goes.
        """
        self._lock = lock
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it; a launcher that still runs is asked to stop by the kernel then."""
        if self._process is not None:
            with self._process as process:
                process.terminate()

    def start(self, config_file: Path, sha256: str, log: Path, _held: int) -> "WarmChild":
        """Start a launcher, as `follow.start_trainer` does; the one before must have ended."""
        if self._process is None or self._process.poll() is not None:
            self._process = self._started()
        request = {"config": str(config_file), "sha256": sha256, "log": str(log)}
        assert self._process.stdin is not None, "internal: no pipe"
        assert self._process.stdout is not None, "internal: no pipe"
        with suppress(BrokenPipeError):  # it is dead then, and the answer says so
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        return WarmChild(self._process.stdout.fileno())

    def _started(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "finetune_trainer", "warm"]
        with self._log.open("ab") as stream:
            # Its own session: Ctrl-C reaches this command alone.
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                start_new_session=True,
                pass_fds=(self._lock,),
                bufsize=0,
            )


class WarmChild:
    """A launcher that was forked; as subprocess.Popen, as far as it is needed."""

    def __init__(self, answers: int) -> None:
        """Wait for its start.

        Args:
            answers: Where the forking process tells of starts and ends.
        """
        self._answers = answers
        self._code: int | None = None
        self.pid = self._told("pid")

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal; None while it runs."""
        if self._code is None and select.select([self._answers], [], [], 0)[0]:
            self._code = self._told("end")
        return self._code

    def send_signal(self, sig: int, /) -> None:
        """Signal it unless it ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def _told(self, word: str) -> int:
        """Return the number of an answer; the end of the answers counts as a kill."""
        line = b""
        while not line.endswith(b"\n"):
            more = os.read(self._answers, 1)
            if not more:
                self._code = -signal.SIGKILL
                return self._code
            line += more
        said, number = line.decode().split()
        assert said == word, f"internal: {word} expected, {said} found"
        return int(number)
