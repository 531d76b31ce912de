"""Why a gang is not running yet, and whether waiting longer can help.

Reads what the scheduler and the kubelet say about pods that do not run. Events are not read: a volume that cannot be
mounted shows as ContainerCreating, and the remedy says where to look. Pure.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from finetune_api.exit_codes import Reason
from finetune_operator.diagnose_remedies import REMEDIES, pull_remedy
from finetune_operator.diagnose_text import MAX_TEXT, clean
from finetune_operator.observe import ContainerFacts, PodFacts


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a gang waits for."""

    reason: str
    """A CamelCase word, fit for a condition's reason."""
    message: str
    remedy: str
    fatal: Reason | None
    """What the job fails with if this lasts; None when waiting can help."""


# pkg/kubelet/images/types.go and the CRI's errors.
_IMAGE: Final = frozenset(
    {
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
_NOT_YET: Final = frozenset({"", "ContainerCreating", "PodInitializing"})
_SCHEDULER: Final = frozenset({"SchedulerError", "SchedulingGated", "Unschedulable"})
_CONDITION_REASON: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")
_VOLUME: Final = re.compile(
    r"persistentvolume|persistent volume|\bpvc\b|volume node affinity|free storage", re.IGNORECASE
)
_DEVICE: Final = re.compile(r"Insufficient (\S*/\S*[^\s.,;])")
# The kubelet's caches answer late under load; the Secret may well exist.
_TRANSIENT: Final = re.compile(r"failed to sync|timed out|timeout|context deadline|connection refused", re.IGNORECASE)
_CANNOT_START: Final = re.compile(
    r"executable file not found|no such file or directory|exec format error|permission denied|not a directory",
    re.IGNORECASE,
)
_ORDER: Final = (
    "SchedulerError",
    "Unschedulable",
    "VolumeNotBound",
    "SchedulingGated",
    "",  # any other word of the kubelet's
    "FetchingModel",
    "ContainerCreating",
    "Terminating",
    "Pending",
)


def waiting(pods: Sequence[PodFacts]) -> Waiting:
    """Tell why a gang is not running yet.

    Args:
        pods: The pods of the gang that were seen.

    Returns:
        The one cause that matters most: what cannot pass by itself, then what holds up the most.
    """
    found = [each for pod in pods for each in _of_pod(pod)]
    if found:
        return min(found, key=_place)
    if pods:
        return Waiting("Pending", f"all {len(pods)} pods that were seen have started; others may be missing", "", None)
    remedy = "See the Job's events: kubectl describe job. A ResourceQuota or an admission policy may refuse its pods."
    return Waiting("Pending", "the Job has no pods yet", remedy, None)


def fatal_waiting(pod: PodFacts) -> Waiting | None:
    """Return what keeps a pod from starting for good, or None."""
    return next((each for each in _of_pod(pod) if each.fatal is not None), None)


def cannot_start(message: str) -> bool:
    """Tell whether the container runtime's words blame the image or its command, which no retry changes."""
    return _CANNOT_START.search(message) is not None


def _place(each: Waiting) -> tuple[bool, int]:
    known = each.reason if each.reason in _ORDER else ""
    return each.fatal is None, _ORDER.index(known)


def _of_pod(pod: PodFacts) -> Iterator[Waiting]:
    trainer = pod.trainer
    if pod.phase in {"Succeeded", "Failed"} or (trainer is not None and trainer.state in {"running", "terminated"}):
        return
    if pod.deleting:
        yield _waiting("Terminating", pod, "is being deleted", "A new one starts when it is gone.")
        return
    for container in pod.containers:
        if container.state == "waiting" and container.reason not in _NOT_YET:
            yield _stuck(pod, container)
    scheduled = pod.condition("PodScheduled")
    if scheduled is not None and scheduled.status == "False":
        yield _unscheduled(pod, scheduled.reason, scheduled.message)
    elif initialising := next((each for each in pod.containers if each.state == "running"), None):
        what = f"runs its init container {initialising.name}, which fetches the model"
        yield _waiting("FetchingModel", pod, what, "A large model takes minutes; its output tells how far it is.")
    elif pod.node:
        remedy = (
            "The node prepares image and volumes. If it stays so, kubectl describe pod names a Secret, ConfigMap or "
            "claim that does not exist or cannot be mounted."
        )
        yield _waiting("ContainerCreating", pod, f"is being set up on node {pod.node}", remedy)
    else:
        remedy = "Check that the scheduler runs and that scheduling.schedulerName, if set, is one that exists."
        yield _waiting("Pending", pod, "was not looked at by the scheduler yet", remedy)


def _stuck(pod: PodFacts, container: ContainerFacts) -> Waiting:
    said = f"container {container.name}: {container.reason}: {container.message}"
    if container.reason in _IMAGE:
        remedy = pull_remedy(f"{container.message} {container.reason}")
        what = f"cannot pull image {container.image}: {said}" if container.image else f"cannot pull its image: {said}"
        return _waiting("ImagePullFailed", pod, what, remedy, Reason.IMAGE_PULL_FAILED)
    word = container.reason if _CONDITION_REASON.fullmatch(container.reason) else "Pending"
    missing = container.reason == "CreateContainerConfigError" and not _TRANSIENT.search(container.message)
    if missing or (container.reason != "CreateContainerConfigError" and cannot_start(container.message)):
        return _waiting(word, pod, f"cannot start {said}", _config_remedy(container.message), Reason.CONFIG_ERROR)
    return _waiting(word, pod, f"cannot start {said}", "The kubelet tries again; see kubectl describe pod.")


def _config_remedy(message: str) -> str:
    if "runAsNonRoot" in message:
        return "Set spec.pod.runAsUser to a user that is not root, or use an image that has one."
    if re.search(r"secret|configmap", message, re.IGNORECASE):
        return "Create the Secret or ConfigMap, with the key, in the job's namespace, or correct its name in the spec."
    return REMEDIES[Reason.CONFIG_ERROR]


def _unscheduled(pod: PodFacts, reason: str, message: str) -> Waiting:
    what = f"is not scheduled: {message or reason}"
    if reason == "SchedulingGated":
        return _waiting(reason, pod, what, "Its gates are lifted by whoever set them, such as a queue.")
    if _VOLUME.search(message):
        remedy = "Check that the claim exists in the job's namespace and that storage.storageClassName can provide it."
        return _waiting("VolumeNotBound", pod, what, remedy)
    device = _DEVICE.search(message)
    remedy = "Free resources or add nodes, or lower workers.resources, nodeSelector, affinity and tolerations' demands."
    if device:
        remedy = (
            f"No node has enough free {clean(device[1], 80)}: wait, add nodes, or ask for fewer in workers.resources."
        )
    return _waiting(reason if reason in _SCHEDULER else "Unschedulable", pod, what, remedy)


def _waiting(reason: str, pod: PodFacts, what: str, remedy: str, fatal: Reason | None = None) -> Waiting:
    return Waiting(reason, clean(f"pod {clean(pod.name, 253)} (rank {pod.index}) {what}", MAX_TEXT), remedy, fatal)
