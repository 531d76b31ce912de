"""The processes of one machine: which ranks they are, how they are started, what they leave behind.

What they leave (a result and a heartbeat each) lies in a folder of this launcher alone. The work folder may be shared
with other machines, outlive the attempt, and have another machine's clock.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from finetune_api.names import rank_result_file
from finetune_api.result import Result
from finetune_api.run_config import RunConfig

ENV_RANK_FOLDER: Final = "FINETUNE_RANK_FOLDER"
_SHUTDOWN_MARGIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class RankResult:
    """What one rank left."""

    rank: int
    at: float
    """When, in seconds since the epoch."""
    result: Result


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of a run."""

    config: RunConfig
    number: int
    """Which of the machines, from 0."""
    port: int
    """Where the machines meet, at node 0."""
    folder: Path
    """Holds what the ranks leave behind."""

    @property
    def ranks(self) -> range:
        """The ranks of this machine among all."""
        count = self.config.processes // self.config.nodes
        return range(self.number * count, (self.number + 1) * count)

    @property
    def is_main(self) -> bool:
        """Whether rank 0 is here, which reports and writes."""
        return self.number == 0

    def command(self, trainer: Sequence[str], wait_s: float, grace_s: float) -> list[str]:
        """Return the command that starts this machine's ranks.

        Args:
            trainer: Arguments of `python -m finetune_trainer`.
            wait_s: Longest wait for the other machines.
            grace_s: Longest time from SIGTERM to the end.

        Returns:
            Program and arguments.
        """
        if self.config.processes == 1:
            return [sys.executable, "-m", "finetune_trainer", *trainer]
        options = [f"--nproc-per-node={len(self.ranks)}", "--max-restarts=0"]
        options.append(f"--shutdown-timeout={max(1, int(grace_s - _SHUTDOWN_MARGIN_S))}")
        # It would leave a folder of its own behind otherwise.
        options.append(f"--log-dir={self.folder}")
        if self.config.nodes == 1:
            options.insert(0, "--standalone")
        else:
            job = self.config.job
            options += [f"--nnodes={self.config.nodes}", f"--node-rank={self.number}"]
            options += [f"--master-addr={self.config.rendezvous}", f"--master-port={self.port}"]
            # A machine of an earlier attempt finds nobody under its own name.
            options += [f"--rdzv-id={job.uid or job.name}-{job.attempt}", f"--rdzv-conf=timeout={max(1, int(wait_s))}"]
        return [sys.executable, "-m", "torch.distributed.run", *options, "-m", "finetune_trainer", *trainer]

    def beats(self) -> list[float]:
        """Return when each rank that started gave its last sign of life, in seconds since the epoch."""
        found: list[float] = []
        for rank in self.ranks:
            try:
                found.append((self.folder / heartbeat_file(rank)).stat().st_mtime)
            except OSError:
                continue
        return found

    def results(self) -> list[RankResult]:
        """Return what the ranks left that got so far."""
        found: list[RankResult] = []
        for rank in self.ranks:
            path = self.folder / rank_result_file(rank)
            try:
                found.append(RankResult(rank, path.stat().st_mtime, Result.from_json(path.read_bytes())))
            except (OSError, ValueError):
                continue
        return found


def heartbeat_file(rank: int) -> str:
    """Return the name of the file that a rank touches while it works."""
    return f"heartbeat-{rank}"


def write_rank_result(folder: Path, rank: int, result: Result) -> None:
    """Leave a rank's result for the launcher, whole or not at all."""
    aside = folder / f".{rank_result_file(rank)}"
    aside.write_text(result.to_json(), encoding="utf-8")
    aside.replace(folder / rank_result_file(rank))
