"""The part of a kubelet that serves containers' logs, over HTTPS as the API server asks for them."""

import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import httpx

from support.https import write_certificate

_PATCH = {"Content-Type": "application/strategic-merge-patch+json"}


class KubeletLogs:
    """A log server for nodes that exist in the API alone; a context manager."""

    def __init__(self, folder: Path) -> None:
        write_certificate(folder)
        self._folder = folder
        self.logs: dict[str, list[bytes]] = {}
        """What the trainer of a pod wrote, in pieces; a request that follows gets the pieces that come later too."""
        self.ended: set[str] = set()
        """Pods whose log is complete."""

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._pieces))
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / "tls.crt", self._folder / "tls.key")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self, api: httpx.Client, pod: dict[str, Any], *pieces: bytes, ended: bool = True) -> str:
        """Be the kubelet of a pod's node, with this log; return the pod's name."""
        name = pod["metadata"]["name"]
        self.logs[name] = list(pieces)
        if ended:
            self.ended.add(name)
        port = {"kubeletEndpoint": {"Port": self._server.server_port}}
        address = {"type": "InternalIP", "address": "127.0.0.1"}
        status = {"status": {"addresses": [address], "daemonEndpoints": port}}
        node = f"/api/v1/nodes/{pod['spec']['nodeName']}/status"
        api.patch(node, json=status, headers=_PATCH).raise_for_status()
        return name

    def _pieces(self, pod: str, told: int, *, follow: bool) -> list[bytes] | None:
        """Return what was not sent yet; None when there will be no more."""
        fresh = self.logs[pod][told:]
        return fresh if fresh or (follow and pod not in self.ended) else None


def _handler(pieces: Callable[..., list[bytes] | None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            _, kind, _, pod, container = path.split("/")
            assert (kind, container) == ("containerLogs", "trainer")
            self.send_response(200)
            self.end_headers()
            told, pause = 0, threading.Event()
            while (fresh := pieces(pod, told, follow="follow=true" in query)) is not None:
                self.wfile.write(b"".join(fresh))
                self.wfile.flush()
                told += len(fresh)
                pause.wait(0.02)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
