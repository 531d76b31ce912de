"""A real Prometheus on loopback: what it scrapes is added while it runs, and it is asked over its API."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from support.waiting import await_that

SCRAPE_S = 1
PACKAGE = "Debian's package `prometheus`"
Series = list[dict[str, Any]]


class NoPrometheus(RuntimeError):
    """Prometheus is not installed here."""


def find(program: str) -> str:
    """Return the path of `prometheus` or `promtool`.

    Raises:
        NoPrometheus: It is not installed.
    """
    found = shutil.which(program)
    if found is None:
        raise NoPrometheus(f"no `{program}` was found; it is in {PACKAGE}")
    return found


class Prometheus:
    """One server with its data in a folder; a context manager."""

    def __init__(self, folder: Path, rules: Path, relabelings: Sequence[Mapping[str, Any]] = ()) -> None:
        """Remember what to start.

        Args:
            folder: For configuration, targets, log and data.
            rules: Alerts that it evaluates.
            relabelings: metric_relabel_configs of everything that is scraped.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._program = find("prometheus")
        self._folder = folder
        self._targets = folder / "targets.json"
        self._added: list[dict[str, Any]] = []
        self._targets.write_text("[]")
        files = {"files": [str(self._targets)], "refresh_interval": "1s"}
        every = f"{SCRAPE_S}s"
        config = {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "rule_files": [str(rules)],
            # As the chart's monitors do: namespace and name of a series are the job's.
            "scrape_configs": [
                {
                    "job_name": "finetune",
                    "honor_labels": True,
                    "file_sd_configs": [files],
                    "metric_relabel_configs": list(relabelings),
                }
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))

    def __enter__(self) -> Self:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [self._program, f"--config.file={self._folder / 'prometheus.yml'}"]
        command += [f"--storage.tsdb.path={self._folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._api = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30)
        await_that(self._is_ready, "Prometheus to be ready")
        return self

    def __exit__(self, *_: object) -> None:
        self._api.close()
        self._process.terminate()
        self._process.wait(30)

    def scrape(self, metrics_url: str, **labels: str) -> None:
        """Scrape a URL from now on.

        Args:
            metrics_url: Ends in /metrics.
            labels: Those that service discovery gives the target.
        """
        url = urlsplit(metrics_url)
        assert url.path == "/metrics"
        self._added.append({"targets": [url.netloc], "labels": labels})
        aside = self._targets.with_suffix(".new")
        aside.write_text(json.dumps(self._added))
        aside.rename(self._targets)

    def now(self, expr: str) -> Series:
        """Return what an expression is at this moment: `metric` and `value` each."""
        return self._ask("query", {"query": expr})

    def curves(self, expr: str, seconds: float, step_s: float) -> Series:
        """Return what an expression was over the last seconds: `metric` and `values` each."""
        end = time.time()
        return self._ask(
            "query_range", {"query": expr, "start": str(end - seconds), "end": str(end), "step": str(step_s)}
        )

    def rules(self) -> list[dict[str, Any]]:
        """Return the rules with their health."""
        found = self._api.get("/api/v1/rules").raise_for_status().json()["data"]["groups"]
        return [rule for group in found for rule in group["rules"]]

    def _ask(self, verb: str, params: Mapping[str, str]) -> Series:
        answer = self._api.post(f"/api/v1/{verb}", data=dict(params)).json()
        assert answer["status"] == "success", f"{params['query']}: {answer.get('error')}"
        return answer["data"]["result"]

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()[-2000:]
        try:
            return self._api.get("/-/ready").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False
