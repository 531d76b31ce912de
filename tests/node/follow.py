"""When things happened, by one clock: watches of the API server, each line stamped as it arrives."""

import json
import threading
import time
from typing import Any, Self

from finetune_api.names import API_VERSION, LABEL_JOB, PLURAL
from node.submitted import TRAINING
from node.world import World

_READ_S = 300.0


class Follow:
    """Follows one job's objects; a context manager."""

    def __init__(self, world: World, name: str) -> None:
        """Remember whom to follow.

        Args:
            world: The cluster.
            name: Of a job that is not there yet.
        """
        self._world, self._name = world, name
        self._seen: list[tuple[float, str, dict[str, Any]]] = []
        self._clients = [world.plane.client() for _ in range(3)]

    def __enter__(self) -> Self:
        ours, base = {"labelSelector": f"{LABEL_JOB}={self._name}"}, f"namespaces/{TRAINING}"
        paths = (
            ("FineTuneJob", f"/apis/{API_VERSION}/{base}/{PLURAL}", {"fieldSelector": f"metadata.name={self._name}"}),
            ("Job", f"/apis/batch/v1/{base}/jobs", ours),
            ("Pod", f"/api/v1/{base}/pods", ours),
        )
        for client, (kind, path, query) in zip(self._clients, paths, strict=True):
            threading.Thread(target=self._watch, args=(client, kind, path, query), daemon=True).start()
        # A watch has to be there before what it should see.
        time.sleep(1.0)
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()

    def first(self, kind: str) -> float:
        """Return when an object of a kind was first seen."""
        return next(at for at, each, _ in self._seen if each == kind)

    def all_running(self, pods: int) -> float:
        """Return when the last of some pods was first seen running."""
        at_by_name: dict[str, float] = {}
        for at, kind, content in self._seen:
            if kind == "Pod" and content["status"].get("phase") == "Running":
                at_by_name.setdefault(content["metadata"]["name"], at)
        assert len(at_by_name) == pods, at_by_name
        return max(at_by_name.values())

    def _watch(self, client: Any, kind: str, path: str, query: dict[str, str]) -> None:
        try:
            with client.stream("GET", path, params={"watch": "true", **query}, timeout=_READ_S) as answer:
                for line in answer.iter_lines():
                    self._seen.append((time.perf_counter(), kind, json.loads(line)["object"]))
        except Exception:  # noqa: BLE001 - the client was closed
            return
