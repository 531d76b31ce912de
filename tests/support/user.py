"""What a user types: `finetune` as a process of its own, against the test cluster."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_COMMAND = (sys.executable, "-P", "-m", "finetune_cli.main")


class User:
    """A person with a kubeconfig; their namespace is the one of its context or given by the test."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.kubeconfig, self.namespace = kubeconfig, namespace

    def finetune(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self._line(*arguments), capture_output=True, text=True, check=False, timeout=120, env=ENV)

    def says(self, *arguments: str | Path) -> str:
        """Return the output of a command that is to succeed."""
        done = self.finetune(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *arguments: str | Path, code: int = 1) -> str:
        """Return the errors of a command that is to fail."""
        done = self.finetune(*arguments)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stderr

    @contextmanager
    def begins(self, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
        """Start a command that goes on; it is killed at the end."""
        pipe = subprocess.PIPE
        with subprocess.Popen(self._line(*arguments), stdout=pipe, stderr=pipe, text=True, env=ENV) as process:
            try:
                yield process
            finally:
                process.kill()

    def _line(self, *arguments: str | Path) -> list[str]:
        where = ("-n", self.namespace) if self.namespace else ()
        return [*_COMMAND, *map(str, arguments), "--kubeconfig", str(self.kubeconfig), *where]


ENV = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}  # noqa: TID251
