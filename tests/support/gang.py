"""A kubelet without machines: plays the pods of Jobs on a control plane that has no nodes.

The API server and the Job controller are real; only what a kubelet would write is written here. A deleted pod stays
terminating until its kubelet says that it ended, as in a cluster.
"""

import itertools
import threading
from collections.abc import Callable
from typing import Any, Self

import httpx

from finetune_api.names import JOB_INDEX_ANNOTATION, JOB_NAME_LABEL
from support import pod_states
from support.nodes import Nodes
from support.pod_follower import follow
from support.waiting import await_that

Object = dict[str, Any]
SIGTERM_EXIT = 143
_TERMINAL = {"Succeeded", "Failed"}


class Kubelet:
    """Every node's kubelet for the pods of one namespace; a context manager.

    Pods are named by their Job and completion index; each verb waits for the pod, binds and starts it when needed.
    """

    _instances = itertools.count(1)

    def __init__(self, open_client: Callable[[], httpx.Client], namespace: str) -> None:
        self._client = open_client()
        self._open_client = open_client
        self.namespace = namespace
        self._nodes = Nodes(open_client, f"{namespace}-node{next(self._instances)}")
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.problem: Exception | None = None
        """What ended the automatic mode, if anything did."""
        self.deletion_exit_code = SIGTERM_EXIT
        """With which code a deleted pod's trainer ends."""
        self.holds_deletions = False
        """Whether deleted pods stay terminating, in automatic mode too."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        self._nodes.close()
        self._client.close()
        if self.problem is not None:
            raise self.problem

    def auto(self) -> Self:
        """From now on start every new pod by itself, and end every deleted one."""
        self._thread = threading.Thread(target=self._play, name="kubelet", daemon=True)
        self._thread.start()
        return self

    def pods(self, job: str) -> list[Object]:
        """Return a Job's pods, oldest first."""
        params = {"labelSelector": f"{JOB_NAME_LABEL}={job}"}
        answer = self._client.get(self._url(), params=params)
        answer.raise_for_status()
        return sorted(answer.json()["items"], key=lambda pod: (pod["metadata"]["creationTimestamp"], _index(pod)))

    def pod(self, job: str, index: int = 0) -> Object:
        """Return the pod of an index that is neither ended nor being deleted, else the newest; waits for one."""

        def find() -> Object | None:
            found = [pod for pod in self.pods(job) if _index(pod) == index]
            live = [pod for pod in found if not _is_terminal(pod) and not _is_deleted(pod)]
            return (live or found or [None])[-1]

        return await_that(find, f"pod {index} of Job {self.namespace}/{job}")

    def run(self, job: str, nodes: int = 1) -> list[Object]:
        """Start all pods of a Job."""
        return [self._started(self.pod(job, index)) for index in range(nodes)]

    def finish(self, job: str, index: int = 0, exit_code: int = 0, message: str = "") -> None:
        """End a pod's trainer with a code and a termination message."""
        self._end(self._started(self.pod(job, index)), exit_code, message)

    def oom(self, job: str, index: int = 0) -> None:
        """Let the kernel kill the trainer for its memory."""
        self._end(self._started(self.pod(job, index)), 137, reason="OOMKilled")

    def evict(
        self,
        job: str,
        index: int = 0,
        reason: str = "EvictionByEvictionAPI",
        exit_code: int = SIGTERM_EXIT,
        message: str = "",
    ) -> None:
        """Disrupt a pod: DisruptionTarget with this reason, a deletion, then the trainer's end.

        Args:
            job: Its Job.
            index: Its completion index.
            reason: EvictionByEvictionAPI goes by the API server's eviction; PreemptionByScheduler,
                DeletionByTaintManager and others are written here; TerminationByKubelet is a kubelet's own eviction.
            exit_code: With which the trainer answers SIGTERM.
            message: Its termination message.
        """
        pod = self._started(self.pod(job, index))
        name = pod["metadata"]["name"]
        if reason == "TerminationByKubelet":
            text = message or "The node was low on resource: ephemeral-storage."
            self._patch(pod, pod_states.ended(pod, exit_code) | pod_states.evicted(text))
            return
        with self._lock:
            if reason == "EvictionByEvictionAPI":
                body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
                self._client.post(self._url(name, "eviction"), json=body).raise_for_status()
            else:
                self._patch(pod, pod_states.disrupted(reason, f"disrupted: {reason}"))
                self._client.delete(self._url(name)).raise_for_status()
            self._end(pod, exit_code, message)

    def delete(self, job: str, index: int = 0) -> Object:
        """Ask for a pod's deletion, as `kubectl delete pod` does; `reap` or automatic mode ends it."""
        pod = self.pod(job, index)
        self._client.delete(self._url(pod["metadata"]["name"])).raise_for_status()
        return pod

    def reap(self, job: str, exit_code: int | None = None, message: str = "") -> int:
        """End a Job's pods that are being deleted; returns how many."""
        code = self.deletion_exit_code if exit_code is None else exit_code
        terminating = [pod for pod in self.pods(job) if _is_deleted(pod)]
        for pod in terminating:
            self._end(pod, code, message)
        return len(terminating)

    def image_pull_backoff(self, job: str, index: int = 0) -> None:
        pod = self._bound(self.pod(job, index))
        image = pod["spec"]["containers"][0]["image"]
        text = f'Back-off pulling image "{image}": not found'
        self._patch(pod, pod_states.waiting(pod, "ImagePullBackOff", text))

    def unschedulable(
        self, job: str, index: int = 0, message: str = "0/3 nodes are available: 3 Insufficient gpu."
    ) -> None:
        self._patch(self.pod(job, index), pod_states.unschedulable(message))

    def lose_node(self, job: str, index: int = 0) -> str:
        """Let a pod's node fall silent: nothing on it ends any more; returns the node's name."""
        node = self._started(self.pod(job, index))["spec"]["nodeName"]
        self._nodes.lose(node)
        return node

    def _started(self, pod: Object) -> Object:
        with self._lock:
            pod = self._bound(pod)
            return pod if pod["status"]["phase"] != "Pending" else self._patch(pod, pod_states.running(pod))

    def _bound(self, pod: Object) -> Object:
        """Give a pod its node; a node that was lost takes no more pods."""
        name = pod["metadata"]["name"]
        with self._lock:
            current = self._read(name) or pod
            if "nodeName" in current["spec"]:
                return current
            free = (self._nodes.get(_index(pod) + 1000 * turn) for turn in itertools.count())
            node = next(each for each in free if self._nodes.is_alive(each))
            target = {"apiVersion": "v1", "kind": "Node", "name": node}
            body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
            self._client.post(self._url(name, "binding"), json=body).raise_for_status()
            return self._client.get(self._url(name)).raise_for_status().json()

    def _end(self, pod: Object, exit_code: int, message: str = "", reason: str = "") -> None:
        """Write a pod's end; one that is being deleted goes away with it."""
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        with self._lock:
            current = self._read(name)
            if current is None or current["metadata"]["uid"] != uid:
                return
            if not _is_terminal(current):
                current = self._patch(current, pod_states.ended(current, exit_code, message, reason))
            if _is_deleted(current):
                body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
                self._client.request("DELETE", self._url(name), json=body)

    def _read(self, name: str) -> Object | None:
        answer = self._client.get(self._url(name))
        return None if answer.status_code == httpx.codes.NOT_FOUND else answer.raise_for_status().json()

    def _patch(self, pod: Object, status: Object) -> Object:
        headers = {"Content-Type": "application/strategic-merge-patch+json"}
        # The uid keeps a patch from reaching a later pod of the same name.
        body = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}
        answer = self._client.patch(self._url(pod["metadata"]["name"], "status"), json=body, headers=headers)
        return answer.raise_for_status().json()

    def _url(self, *parts: str) -> str:
        return "/".join([f"/api/v1/namespaces/{self.namespace}/pods", *parts])

    def _play(self) -> None:
        try:
            with self._open_client() as client:
                for pod in follow(client, self._url(), self._closing):
                    self._answer(pod)
        except Exception as error:  # noqa: BLE001 - told by __exit__
            self.problem = error

    def _answer(self, pod: Object) -> None:
        """Do for one pod what its kubelet would do next."""
        with self._lock:
            current = self._read(pod["metadata"]["name"])
            if current is None or JOB_INDEX_ANNOTATION not in current["metadata"].get("annotations", {}):
                return
            node = current["spec"].get("nodeName")
            if node is not None and not self._nodes.is_alive(node):
                return
            if _is_deleted(current):
                if not self.holds_deletions:
                    self._end(current, self.deletion_exit_code)
            elif node is None and not current["spec"].get("schedulingGates"):
                self._started(current)


def _index(pod: Object) -> int:
    return int(pod["metadata"].get("annotations", {}).get(JOB_INDEX_ANNOTATION, "0"))


def _is_terminal(pod: Object) -> bool:
    return pod["status"]["phase"] in _TERMINAL


def _is_deleted(pod: Object) -> bool:
    return "deletionTimestamp" in pod["metadata"]
