"""Runs of the trainer in forked children, so that 30 kills do not pay for 30 imports of torch.

Reads one line per run on standard input, `CONFIG`; writes the child's pid, then, when it ended, its wait status. The
parent never computes, since threads do not survive a fork.
"""

import os
import sys
from pathlib import Path

from finetune_api.run_config import RunConfig
from finetune_trainer import artifacts, run  # noqa: F401 - imported here once, for every child
from finetune_trainer.__main__ import _run

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        # The pipe to the test belongs to the parent; a library's print must not reach it.
        os.dup2(2, 1)
        os._exit(_run(RunConfig.from_json(Path(line.strip()).read_bytes())))
    sys.stdout.write(f"pid {pid}\n")
    sys.stdout.flush()
    _, status = os.waitpid(pid, 0)
    sys.stdout.write(f"end {status}\n")
    sys.stdout.flush()
