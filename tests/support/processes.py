"""What the kernel says about a process."""

import os
from pathlib import Path

_RANK = b"finetune_trainer\0run\0"
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process, all threads, in seconds."""
    # The second field is the program's name in parentheses and may hold spaces; utime and stime are fields 14 and 15.
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / _TICKS


def rss(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def rank_pid(launcher: int, rank: int | None = None) -> int:
    """Return the process id of a rank, any one when None; its parents are followed up to the launcher."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes()
            parent, seen = int(folder.name), False
            while parent > 1 and not seen:
                parent = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
                seen = parent == launcher
        except OSError:
            continue
        wanted = rank is None or f"RANK={rank}".encode() in words
        # torchrun's own command line names the module too.
        if seen and wanted and _RANK in command and b"torch.distributed.run" not in command:
            return int(folder.name)
    raise AssertionError(f"no process of rank {rank} below {launcher}")
