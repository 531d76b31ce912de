"""A real etcd, kube-apiserver and kube-controller-manager on loopback: no nodes, everything else as in a cluster."""

import secrets
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from support.access import Access
from support.processes import cpu_s

START_S = 60.0


class ControlPlane(Access):
    """The servers of one test session."""

    def __init__(
        self,
        binary: Path,
        folder: Path,
        *,
        address: str = "127.0.0.1",
        inside: Sequence[str] = (),
        flags: Mapping[str, Sequence[str]] | None = None,
    ):
        """Remember what to start.

        Args:
            binary: The test cluster's.
            folder: For data, certificates and logs.
            address: Where the API server listens.
            inside: Command before each server's own, which runs it elsewhere than here.
            flags: More flags by server.
        """
        self.etcd_port, self.peer_port, self.api_port = free_ports(3)
        url, ca_file = f"https://{address}:{self.api_port}", str(folder / "certs" / "apiserver.crt")
        super().__init__(binary, folder, url, secrets.token_hex(16), ca_file)
        self.inside, self.flags = tuple(inside), flags or {}
        self.address = address
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
        (self.folder / "sa.key").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
        (self.folder / "tokens.csv").write_text(f'{self.token},admin,admin,"system:masters"\n')
        self._start_etcd()
        self._start_apiserver()
        self._await_ready()
        self.write_kubeconfig()
        self._start_controllers()

    def stop(self) -> None:
        """End the servers at once: a graceful end of the API server takes 15 s, and nothing of it is kept."""
        for child in self.children.values():
            child.kill()
        for child in self.children.values():
            child.wait()

    def cpu_s(self) -> float:
        """Return the CPU time of all servers together since they started, in seconds."""
        return sum(cpu_s(child.pid) for child in self.children.values())

    def _start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self.etcd_port, self.peer_port))
        self._start(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )

    def _start_apiserver(self) -> None:
        key = self.folder / "sa.key"
        self._start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--secure-port={self.api_port}",
            f"--bind-address={self.address}",
            f"--cert-dir={self.folder / 'certs'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--allow-privileged",
        )

    def _start_controllers(self) -> None:
        self._start(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--service-account-private-key-file={self.folder / 'sa.key'}",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=400",
            "--kube-api-burst=800",
        )

    def _start(self, name: str, *flags: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            command = [*self.inside, str(self.binary), name, *flags, *self.flags.get(name, ())]
            self.children[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _await_ready(self) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            for name, child in self.children.items():
                if child.poll() is not None:
                    raise AssertionError(f"{name} ended: {(self.folder / f'{name}.log').read_text()[-3000:]}")
            try:
                with self.client() as client:
                    if client.get("/readyz").status_code == httpx.codes.OK:
                        return
            except (httpx.TransportError, OSError):
                time.sleep(0.1)
        raise AssertionError(f"no API server after {START_S} s; see {self.folder}")


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on; they are held until all are known."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports
