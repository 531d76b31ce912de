"""The operator as a process of its own, to be killed and measured; logs go to a file."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from support.accounts import grant_operator
from support.processes import cpu_s, rss
from support.waiting import await_that

__all__ = ["OperatorProcess", "grant_operator"]

START_S = 60.0
STOP_S = 30.0


class OperatorProcess:
    """`python -m finetune_operator` against one API server or proxy; a context manager that starts and kills it.

    Attributes:
        metrics_url: Where /metrics and /healthz are, without a path.
        progress_url: Where trainers post their progress, without a path.
        log: The log of every start, one after the other.
    """

    def __init__(
        self,
        server_url: str,
        token: str,
        folder: Path,
        namespaces: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        *,
        ca_file: str = "",
        flags: Sequence[str] = (),
    ) -> None:
        """Remember what to start.

        Args:
            server_url: Of the API server or of a FaultProxy.
            token: The account that it acts as.
            folder: For kubeconfig, log and output; made when it does not exist.
            namespaces: Watched ones; all when empty.
            env: Variables besides those of this process.
            ca_file: Of an https server.
            flags: More flags, such as `--relist-every-s=5`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.metrics_url = self.progress_url = ""
        self.log = folder / "operator.log"
        self._out = folder / "operator.out"
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(json.dumps(_kubeconfig(server_url, token, ca_file)))
        kubeconfig.chmod(0o600)
        variables = [f"{name}={value}" for name, value in (env or {}).items()]
        start = [*(["/usr/bin/env", *variables] if variables else []), sys.executable, "-P", "-m", "finetune_operator"]
        chosen = [f"--namespace={each}" for each in namespaces]
        self._command = [*start, "--kubeconfig", str(kubeconfig), *chosen, *flags]
        self._process: subprocess.Popen[bytes] | None = None
        self._restart: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, *, ready: bool = True) -> None:
        """Start it and wait until it listens; with `ready`, until /healthz is 200 too."""
        assert not self.is_running, "internal: started twice"
        with self._out.open("wb") as out, self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=out, stderr=log)
        addresses = await_that(self._addresses, "the operator's addresses", START_S)
        self.metrics_url, self.progress_url = addresses["metrics"], addresses["progress"]
        if ready:
            await_that(lambda: self.health()[0] == httpx.codes.OK, "a healthy operator", START_S)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, "internal: never started"
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone; nothing when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_S)

    def terminate(self) -> int:
        """SIGTERM, and return the exit code."""
        assert self._process is not None, "internal: never started"
        self._process.terminate()
        return self._process.wait(STOP_S)

    def restart(self, *, ready: bool = True) -> None:
        """SIGKILL and start anew."""
        self.kill()
        self.start(ready=ready)

    def restart_soon(self) -> None:
        """SIGKILL now, and start anew beside whatever the caller does; `await_restart` waits for it."""
        self.kill()
        thread = threading.Thread(target=self.start, kwargs={"ready": False}, daemon=True)
        thread.start()
        self._restart = thread

    def await_restart(self) -> None:
        """Wait until `restart_soon` was called, and until what it started listens."""
        await_that(lambda: self._restart, "the restart").join()

    def pause(self) -> None:
        """Stop it in the middle of whatever it does; `resume` lets it go on, as after a long pause of its machine."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def health(self) -> tuple[int, str]:
        """Return /healthz: status and text; 0 when it does not answer."""
        try:
            answer = httpx.get(f"{self.metrics_url}/healthz", trust_env=False, timeout=5)
        except httpx.TransportError as error:
            return 0, str(error)
        return answer.status_code, answer.text

    def metrics(self) -> str:
        """Return what Prometheus would scrape."""
        return httpx.get(f"{self.metrics_url}/metrics", trust_env=False, timeout=10).raise_for_status().text

    def known_jobs(self) -> float:
        """Return how many FineTuneJobs it holds."""
        lines = self.metrics().splitlines()
        return sum(float(each.rpartition(" ")[2]) for each in lines if each.startswith("finetune_operator_jobs{"))

    def rss(self) -> int:
        """Return the resident memory in bytes."""
        return rss(self.pid)

    def cpu_s(self) -> float:
        """Return the CPU time of all its threads since it started, in seconds."""
        return cpu_s(self.pid)

    def _addresses(self) -> dict[str, str] | None:
        assert self._process is not None
        line, end, _ = self._out.read_text().partition("\n")
        if end:
            return json.loads(line)
        assert self.is_running, f"the operator ended with {self._process.returncode}: {self.log.read_text()[-3000:]}"
        return None


def _kubeconfig(server_url: str, token: str, ca_file: str) -> dict[str, Any]:
    authority = {"certificate-authority": ca_file} if ca_file else {}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": server_url, **authority}}],
        "users": [{"name": "operator", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "operator"}}],
    }
