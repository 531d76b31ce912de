"""Launch runs one after the other by forking a process in which torch and transformers are loaded already.

Reads one JSON line per run on standard input, {"config", "sha256", "log"}; writes `pid N` when its launcher started and
`end STATUS` (as waitpid tells it) when that ended. This process itself never computes, since threads do not survive a
fork. When it dies, or who started it, the launcher under way is asked to stop, which saves a checkpoint.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from finetune_api.exit_codes import COMPLETE, Reason, exit_code
from finetune_api.run_config import RunConfig
from finetune_trainer.launch import Child, read_config
from finetune_trainer.methods import module_of

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_STOPS = (signal.SIGTERM, signal.SIGINT)


def serve(launch: Callable[..., int], rank: Callable[[RunConfig], int]) -> int:
    """Launch what is asked for until standard input ends.

    Args:
        launch: Runs a launcher to its end, from the configuration's file, its digest, the configuration, `parent`
            whose death stops it, and `fork` which starts a rank.
        rank: Runs one rank to its end.

    Returns:
        The exit code.
    """
    # Loaded once, for every run.
    import_module("finetune_trainer.run")
    for line in sys.stdin:
        request: Mapping[str, Any] = json.loads(line)
        config = read_config(Path(request["config"]), request["sha256"])
        module_of(config.spec.method)
        child = Forked(partial(_launched, request, config, partial(launch, parent=os.getpid()), rank))
        _tell(f"pid {child.pid}")
        _tell(f"end {child.wait()}")
    return COMPLETE


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _launched(
    request: Mapping[str, Any], config: RunConfig, launch: Callable[..., int], rank: Callable[[RunConfig], int]
) -> int:
    """Be a launcher, with the run's log for its output."""
    for number, (path, flags) in enumerate([(os.devnull, os.O_RDONLY), *[(request["log"], _APPEND)] * 2]):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, number)
        os.close(opened)

    def begin(environment: Mapping[str, str]) -> int:
        os.environ.update(environment)  # noqa: TID251 - what a process that is started anew gets
        return rank(config)

    def fork(environment: Mapping[str, str]) -> Child:
        return Forked(partial(begin, environment))

    return launch(Path(request["config"]), request["sha256"], config, fork=fork)


class Forked:
    """A forked process in a session of its own, with the face of subprocess.Popen."""

    def __init__(self, work: Callable[[], int]) -> None:
        """Fork.

        Args:
            work: What the child does; returns its exit code.
        """
        self._code: int | None = None
        # A request to stop that comes now must find the child's own handler, not a copy of its parent's.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        self.pid = os.fork()
        if self.pid == 0:
            _become(work)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)

    @property
    def returncode(self) -> int:
        """Exit code once it ended, negative for a signal."""
        assert self._code is not None, "internal: the exit code of a process that runs"
        return self._code

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._reap(os.WNOHANG)

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        self._reap(0)
        return self.returncode

    def send_signal(self, sig: int, /) -> None:
        """Signal it unless it ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def _reap(self, options: int) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, options)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code


def _become(work: Callable[[], int]) -> None:
    """Be the child: do the work and leave, whatever happens, without the parent's own clean-up."""
    code = exit_code(Reason.UNKNOWN)
    try:
        os.setsid()
        for number in _STOPS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        code = work()
    except BaseException:  # noqa: BLE001 - a fork must not return into its parent's code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
