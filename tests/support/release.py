"""One release of the chart in a real control plane, and the operator beside it, run with what the chart gives it.

The control plane has no nodes, so the Deployment's pod is started here: its arguments, its certificate, its account.
"""

import base64
import re
import ssl
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from finetune_api import names
from support.accounts import request_token
from support.chart import Object, container_of, make_namespace
from support.cluster import CRD_URL, await_established
from support.helm import CHART, Helm
from support.operator_process import OperatorProcess
from support.waiting import await_that
from support.world import SPEC

_TLS = "/etc/finetune-operator/tls"


class Release:
    """An installed chart; a context manager that uninstalls it and deletes the CRD."""

    def __init__(self, helm: Helm, plane: Any, name: str, *flags: str) -> None:
        """Install it.

        Args:
            helm: With the control plane.
            plane: The control plane.
            name: Of the release and of its namespace.
            flags: Of helm, such as `--set=replicas=2`.
        """
        self._helm, self._plane = helm, plane
        self.name = self.namespace = name
        self.api: httpx.Client = plane.client()
        make_namespace(self.api, name)
        self.notes = self.helm("install", str(CHART), *flags)
        await_established(self.api)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.name in self._helm.run("list", "--short", f"--namespace={self.namespace}").split():
            self.uninstall()
        self.api.delete(CRD_URL)
        await_that(lambda: not self.exists(CRD_URL), "the CRD to be gone")
        self.api.close()

    def helm(self, verb: str, *arguments: str) -> str:
        """Run helm on this release."""
        return self._helm.run(verb, self.name, *arguments, f"--namespace={self.namespace}")

    def upgrade(self, *flags: str) -> None:
        """Upgrade it to the same chart with these values."""
        self.helm("upgrade", str(CHART), *flags)

    def uninstall(self) -> None:
        """Uninstall it."""
        self.helm("uninstall")

    @property
    def full_name(self) -> str:
        """Name of its objects."""
        return f"{self.name}-{CHART.name}"

    def get(self, path: str) -> Object:
        """Return an object of the release's namespace."""
        return self.api.get(path.format(self.namespace)).raise_for_status().json()

    def exists(self, path: str) -> bool:
        """Tell whether the API server has something at a path."""
        return self.api.get(path.format(self.namespace)).status_code == httpx.codes.OK

    def certificate(self) -> dict[str, str]:
        """Return the data of the Secret with the certificate."""
        return self.get(f"/api/v1/namespaces/{{}}/secrets/{self.full_name}-tls")["data"]

    def authority(self) -> str:
        """Return the certificate authority's PEM."""
        return base64.b64decode(self.certificate()["ca.crt"]).decode()

    def token(self) -> str:
        """Return a token of the operator's account."""
        return request_token(self.api, self.namespace, self.full_name)

    def operator(self, folder: Path, *more: str) -> OperatorProcess:
        """Return the operator as the Deployment would run it, not started yet; `more` flags come last."""
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in self.certificate().items():
            (folder / file).write_bytes(base64.b64decode(content))
        deployment = self.get(f"/apis/apps/v1/namespaces/{{}}/deployments/{self.full_name}")
        flags = [each.replace(_TLS, str(folder)) for each in container_of([deployment])["args"]]
        # The host's ports are not ours to choose.
        flags = [re.sub(r"^(--(?:metrics|progress)-address=).*", r"\g<1>127.0.0.1:0", each) for each in flags]
        url, ca_file = self._plane.url, self._plane.ca_file
        return OperatorProcess(url, self.token(), folder / "run", ca_file=ca_file, flags=(*flags, *more))

    def post_progress(self, url: str) -> int:
        """Post to the endpoint as a pod would, name and certificate checked strictly; return the answer's status."""
        context = ssl.create_default_context(cadata=self.authority())
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        (flag,) = (each for each in self.arguments() if each.startswith("--progress-url="))
        host = urlsplit(flag.partition("=")[2]).hostname
        at = urlsplit(url)
        path = names.PROGRESS_PATH.format(namespace="a", job="b")
        # The Service's name means nothing on this machine: it is checked against the certificate all the same.
        with httpx.Client(verify=context, trust_env=False, timeout=10) as client:
            answer = client.post(f"https://{at.netloc}{path}", json=[], extensions={"sni_hostname": host})
        return answer.status_code

    def arguments(self) -> list[str]:
        """Return the arguments of the operator's container."""
        return container_of([self.get(f"/apis/apps/v1/namespaces/{{}}/deployments/{self.full_name}")])["args"]

    def apply(self, name: str, namespace: str) -> str:
        """Make a FineTuneJob, and return its uid."""
        body = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": name}, "spec": SPEC}
        answer = self.api.post(f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.PLURAL}", json=body)
        return answer.raise_for_status().json()["metadata"]["uid"]
