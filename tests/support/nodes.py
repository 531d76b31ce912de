"""Nodes that exist in the API alone: each with a Lease that is renewed, so that the controllers hold it for alive."""

import threading
from collections.abc import Callable
from typing import Any

import httpx

from support.pod_states import condition, micro_timestamp

_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_RENEW_S = 5.0
_CAPACITY = {"cpu": "64", "memory": "256Gi", "pods": "1000", "nvidia.com/gpu": "8"}


class Nodes:
    """Makes nodes when they are first asked for and keeps their Leases fresh, until closed."""

    def __init__(self, open_client: Callable[[], httpx.Client], prefix: str) -> None:
        self._client = open_client()
        self._prefix = prefix
        self._alive: set[str] = set()
        self._made: set[str] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="node-leases", daemon=True)

    def get(self, index: int) -> str:
        """Return the name of a node, made when it does not exist."""
        name = f"{self._prefix}-{index}"
        with self._lock:
            if name not in self._made:
                self._create(name)
                self._made.add(name)
                self._alive.add(name)
                if not self._thread.is_alive():
                    self._thread.start()
        return name

    def is_alive(self, name: str) -> bool:
        return name in self._alive

    def lose(self, name: str) -> None:
        """Let a node fall silent, and say at once what the controllers would say after 50 s without a Lease."""
        with self._lock:
            self._alive.discard(name)
            body = {
                "status": {
                    "conditions": [condition("Ready", "Unknown", "NodeStatusUnknown", "Kubelet stopped posting")]
                }
            }
            headers = {"Content-Type": "application/strategic-merge-patch+json"}
            self._client.patch(f"/api/v1/nodes/{name}/status", json=body, headers=headers).raise_for_status()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        for name in self._made:
            self._client.delete(f"/api/v1/nodes/{name}")
            self._client.delete(f"{_LEASES}/{name}")
        self._client.close()

    def _create(self, name: str) -> None:
        status = {
            "capacity": _CAPACITY,
            "allocatable": _CAPACITY,
            "conditions": [condition("Ready", "True", "KubeletReady")],
        }
        node: dict[str, Any] = {
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": status,
        }
        self._client.post(_LEASES, json={"metadata": {"name": name}, "spec": self._lease(name)}).raise_for_status()
        self._client.post("/api/v1/nodes", json=node).raise_for_status()

    def _lease(self, name: str) -> dict[str, Any]:
        return {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": micro_timestamp()}

    def _renew(self) -> None:
        headers = {"Content-Type": "application/merge-patch+json"}
        while not self._closing.wait(_RENEW_S):
            with self._lock:
                for name in sorted(self._alive):
                    self._client.patch(f"{_LEASES}/{name}", json={"spec": self._lease(name)}, headers=headers)
