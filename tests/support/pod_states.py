"""What a kubelet writes into a pod's status, as strategic merge patches. Pure: from a pod to a patch."""

from datetime import UTC, datetime
from typing import Any

from finetune_api.names import TRAINER_CONTAINER

Object = dict[str, Any]
_READY = ("PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready")


def running(pod: Object) -> Object:
    started = {"running": {"startedAt": timestamp()}}
    return {
        "phase": "Running",
        "startTime": timestamp(),
        "conditions": [condition(kind, "True") for kind in _READY],
        "initContainerStatuses": [
            container(each, terminated(0, "Completed")) for each in pod["spec"].get("initContainers", [])
        ],
        "containerStatuses": [container(each, started, ready=True) for each in pod["spec"]["containers"]],
    }


def ended(pod: Object, exit_code: int, message: str = "", reason: str = "") -> Object:
    """Return the end of a pod: the trainer's code and termination message, any sidecar ends well."""
    reason = reason or ("Completed" if exit_code == 0 else "Error")
    states = {TRAINER_CONTAINER: terminated(exit_code, reason, message)}
    return {
        "phase": "Succeeded" if exit_code == 0 else "Failed",
        "conditions": [condition(kind, "False", "PodCompleted") for kind in ("Ready", "ContainersReady")],
        "containerStatuses": [
            container(each, states.get(each["name"], terminated(0, "Completed"))) for each in pod["spec"]["containers"]
        ],
    }


def evicted(message: str) -> Object:
    """Return a kubelet's own eviction under pressure: no container is named, the pod is Failed at once."""
    return {
        "phase": "Failed",
        "reason": "Evicted",
        "message": message,
        "conditions": [condition("DisruptionTarget", "True", "TerminationByKubelet", message)],
    }


def disrupted(reason: str, message: str) -> Object:
    return {"conditions": [condition("DisruptionTarget", "True", reason, message)]}


def unschedulable(message: str) -> Object:
    return {"conditions": [condition("PodScheduled", "False", "Unschedulable", message)]}


def waiting(pod: Object, reason: str, message: str) -> Object:
    state = {"waiting": {"reason": reason, "message": message}}
    return {
        "phase": "Pending",
        "startTime": timestamp(),
        "conditions": [
            condition(kind, "False", "ContainersNotReady", "containers with unready status: [trainer]")
            for kind in ("Ready", "ContainersReady")
        ],
        "containerStatuses": [container(each, state) for each in pod["spec"]["containers"]],
    }


def container(spec: Object, state: Object, *, ready: bool = False) -> Object:
    return {
        "name": spec["name"],
        "image": spec["image"],
        "imageID": "",
        "ready": ready,
        "started": ready,
        "restartCount": 0,
        "state": state,
    }


def terminated(exit_code: int, reason: str, message: str = "") -> Object:
    end = {"exitCode": exit_code, "reason": reason, "startedAt": timestamp(), "finishedAt": timestamp()}
    return {"terminated": end | ({"message": message} if message else {})}


def condition(kind: str, status: str, reason: str = "", message: str = "") -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": timestamp()}


def timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
