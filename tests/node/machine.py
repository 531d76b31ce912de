"""A machine inside this one: namespaces of its own for processes, mounts and network, and a control group.

Whatever runs in it ends with its first process, and its mounts, interfaces and packet rules go with the namespaces: the
kernel cleans up, also when the tests are killed. Only the control group is removed by hand.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from support.waiting import await_that

_CGROUPS: Final = Path("/sys/fs/cgroup")
# A kubelet, a container runtime and network plugins write below these, in part with no choice: they get empty ones.
_OWN_FOLDERS: Final = ("/run", "/var/lib", "/var/log")
# The shell takes over orphans, which are shims of containers, and reaps them.
_INIT: Final = ("sh", "-c", "while sleep 1000; do :; done")
_END_S: Final = 20.0


class Machine:
    """A place to run programs in, reachable from here at `address` and from nowhere else."""

    def __init__(self, folder: Path) -> None:
        """Remember where its folders go.

        Args:
            folder: Of this machine; holds what would be on another machine's disk.
        """
        self.folder = folder
        # 198.18.0.0/15 is set aside for tests of networks. One /30 per process that tests.
        number = os.getpid() % 16384
        base = f"198.18.{number // 64}.{number % 64 * 4 + 1}".split(".")
        self.gateway = ".".join(base)
        self.address = ".".join([*base[:3], str(int(base[3]) + 1)])
        self.cgroup = f"finetune-{os.getpid()}"
        self._link = f"ft{os.getpid()}"
        self._holder: subprocess.Popen[bytes] | None = None
        self._init = 0
        self.services: list[Service] = []

    def start(self) -> None:
        """Make the namespaces, mounts, link and control group."""
        hold = ("setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--net", "--pid", "--mount-proc")
        self._holder = subprocess.Popen([*hold, "--fork", "--kill-child=KILL", *_INIT], stdin=subprocess.DEVNULL)
        holder = self._holder.pid
        self._init = await_that(lambda: next(iter(_children(holder)), 0), "the machine's first process")
        # The shell starts when all namespaces are there.
        await_that(lambda: Path(f"/proc/{self._init}/comm").read_text() == "sh\n", "the machine's namespaces")
        self._mount()
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", str(self._init))
        _ip("address", "add", f"{self.gateway}/30", "dev", self._link)
        _ip("link", "set", self._link, "up")
        for command in (
            f"ip address add {self.address}/30 dev eth0",
            "ip link set eth0 up",
            "ip link set lo up",
            f"ip route add default via {self.gateway}",
            "sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1",
        ):
            self.run(*command.split())
        for group in self.cgroups():
            _make_cgroup(group)

    def stop(self) -> None:
        """End everything in it and remove what the kernel leaves."""
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait()
        for service in self.services:
            service.wait()
        # Killed processes take a moment to go.
        until = time.monotonic() + _END_S
        while self.leftovers() and time.monotonic() < until:
            for group in self.cgroups():
                _remove_cgroup(group)
            time.sleep(0.1)

    def leftovers(self) -> list[str]:
        """Return what is still there of a machine that was stopped: nothing."""
        left = [str(group) for group in self.cgroups() if group.exists()]
        link = Path("/sys/class/net") / self._link
        left += [str(link)] if link.exists() else []
        left += [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(self.folder) in line]
        return left + ([f"process {self._init}"] if Path(f"/proc/{self._init}").exists() else [])

    def inside(self, *, processes: bool = False) -> tuple[str, ...]:
        """Return the command before a command that runs it here.

        Args:
            processes: Also in the namespace of processes. The program is then a child of the one that was started.
        """
        more = ("--pid",) if processes else ()
        return ("setpriv", "--pdeathsig=KILL", "nsenter", f"--target={self._init}", "--mount", "--net", *more, "--")

    def run(self, *command: str, stdin: IO[bytes] | None = None) -> str:
        """Run a command to its end and return what it printed."""
        whole = [*self.inside(processes=True), *command]
        done = subprocess.run(whole, stdin=stdin or subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-3000:]}"
        return done.stdout

    def cgroups(self) -> list[Path]:
        """Return the folders of its control group: one on version 2, one per hierarchy on version 1."""
        if (_CGROUPS / "cgroup.controllers").exists():
            return [_CGROUPS / self.cgroup]
        return [each / self.cgroup for each in sorted(_CGROUPS.iterdir()) if (each / "cgroup.procs").exists()]

    def _mount(self) -> None:
        # Mounts of volumes have to reach the containers that are there already.
        self.run("mount", "--make-rshared", "/")
        for place in _OWN_FOLDERS:
            self.own(place).mkdir(parents=True, exist_ok=True)
            self.run("mount", "--bind", str(self.own(place)), place)
        # There is nobody to ask for names: say so at once, and not after a minute.
        resolver = self.folder / "resolv.conf"
        resolver.write_text("")
        self.run("mount", "--bind", str(resolver), "/etc/resolv.conf")

    def own(self, place: str) -> Path:
        """Return where a folder of the machine is, seen from here."""
        return self.folder / place.strip("/")


class Service:
    """A program that keeps running in a machine; its output goes to a file."""

    def __init__(self, machine: Machine, name: str, command: Sequence[str]) -> None:
        """Remember what to start."""
        self.log = machine.folder / f"{name}.log"
        self._command = [*machine.inside(processes=True), *command]
        self._entry: subprocess.Popen[bytes] | None = None
        machine.services.append(self)

    def start(self) -> None:
        """Start it; output of several starts is in one file."""
        with self.log.open("ab") as log:
            self._entry = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def is_running(self) -> bool:
        return self._entry is not None and self._entry.poll() is None

    @property
    def pid(self) -> int:
        """The program's own process, as seen from here."""
        assert self._entry is not None, "internal: never started"
        return next(iter(_children(self._entry.pid)))

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        assert self._entry is not None, "internal: never started"
        os.kill(self.pid, signal.SIGKILL)
        self._entry.wait()

    def wait(self) -> None:
        """Wait for its end, if it was started."""
        if self._entry is not None:
            self._entry.wait()

    def tail(self) -> str:
        """Return the end of its output."""
        return self.log.read_text(errors="replace")[-3000:]


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def _make_cgroup(group: Path) -> None:
    if (group.parent / "cgroup.subtree_control").exists():
        for controller in (group.parent / "cgroup.controllers").read_text().split():
            (group.parent / "cgroup.subtree_control").write_text(f"+{controller}")
    group.mkdir(exist_ok=True)
    for name in ("cpuset.cpus", "cpuset.mems"):
        # On version 1 no process may enter a group without processors.
        if (group / "tasks").exists() and (group / name).exists():
            (group / name).write_text((group.parent / name).read_text())


def _remove_cgroup(group: Path) -> None:
    """Remove a control group and those below it, but for the ones that are busy."""
    for folder, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):
            Path(folder).rmdir()
