"""How tests reach an API server with every right, whoever started it."""

import json
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx


class Access:
    """One API server; `kubeconfig` names it to other programs."""

    def __init__(self, binary: Path, folder: Path, url: str, token: str, ca_file: str):
        """Remember the server.

        Args:
            binary: The test cluster's, for its kubectl.
            folder: For the kubeconfig.
            url: Of the API server.
            token: Of a user who may do everything.
            ca_file: Who signed the server's certificate.
        """
        self.binary, self.folder = binary, folder
        self.url, self.token, self.ca_file = url, token, ca_file
        self.kubeconfig = folder / "kubeconfig"

    def client(self, token: str = "") -> httpx.Client:
        """Return a client with every right, or with those of a token."""
        context = ssl.create_default_context(cafile=self.ca_file)
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, verify=context, trust_env=False, timeout=30)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl of the test cluster's version and return its output."""
        command = [str(self.binary), "kubectl", "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def write_kubeconfig(self) -> None:
        name = "test"
        document: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{"name": name, "cluster": {"server": self.url, "certificate-authority": self.ca_file}}],
            "users": [{"name": name, "user": {"token": self.token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        }
        self.kubeconfig.write_text(json.dumps(document))
