"""What to do about each reason, when nobody nearer to the cause said it. Pure."""

import re
from types import MappingProxyType
from typing import Final

from finetune_api.exit_codes import Reason

_RETRIED = "A retry goes on from the newest valid checkpoint."

REMEDIES: Final = MappingProxyType(
    {
        Reason.INVALID_SPEC: "Correct the manifest (finetune validate names every problem) and make a new job.",
        Reason.CONFIG_ERROR: "Correct what the message or the trainer's output names, and make a new job.",
        Reason.DATA_ERROR: "Correct the data that the message names; finetune validate checks it without a GPU.",
        Reason.MODEL_NOT_FOUND: "Check spec.model.uri, its revision and that the model fits spec.task.",
        Reason.ACCESS_DENIED: "Check the Secrets that spec.secrets names, and what their keys may read.",
        Reason.IMAGE_PULL_FAILED: "Check spec.pod.image and spec.pod.imagePullSecrets.",
        Reason.NON_FINITE_LOSS: "Lower training.learningRate or set training.gradientClip; check the samples named.",
        Reason.GATE_FAILED: "Train longer, improve the data, or lower evaluation.gate.",
        Reason.NODE_LOST: f"An administrator checks the node. {_RETRIED}",
        Reason.EVICTED: f"{_RETRIED} If the node was low on a resource, raise its request in workers.resources.",
        Reason.PREEMPTED: f"{_RETRIED} A higher scheduling.priorityClassName makes preemption less likely.",
        Reason.RENDEZVOUS_FAILED: "Check that all pods can be scheduled at the same time and reach each other.",
        Reason.COLLECTIVE_TIMEOUT: f"Check the network between the pods. {_RETRIED}",
        Reason.STALLED: f"Read the output for what it waited for. {_RETRIED}",
        Reason.STORAGE_UNAVAILABLE: "Check free space and health of the volume or object store.",
        Reason.UNKNOWN: "Read the trainer's output; the end is tried once more before the job fails.",
        Reason.DEVICE_OUT_OF_MEMORY: "Lower data.maxLength or training.batchSize, or ask for a larger device.",
        Reason.HOST_OUT_OF_MEMORY: "Raise workers.resources.limits.memory, or lower training.batchSize.",
        Reason.DEADLINE_EXCEEDED: "Raise the deadline in a new job, which can start from the checkpoint.",
        Reason.PENDING_DEADLINE_EXCEEDED: "Free the resources that the pods wait for, or raise pendingDeadlineSeconds.",
        Reason.RESTART_LIMIT_EXCEEDED: "Correct the cause of the last end, or raise restarts.limit.",
    }
)

_PULL_REMEDIES: Final = (
    (
        r"unauthori[sz]ed|authentication|authorization|denied|forbidden|\b40[13]\b",
        "The registry refuses: name a Secret of type kubernetes.io/dockerconfigjson in spec.pod.imagePullSecrets.",
    ),
    (r"not found|manifest unknown|does not exist", "The image does not exist: correct name and tag in spec.pod.image."),
    (r"no match for platform|no matching manifest", "The image is not built for this CPU type: choose other nodes."),
    (r"pull policy of Never", "Load the image onto the node, or set spec.pod.imagePullPolicy to IfNotPresent."),
    (r"no space left", "The node's disk is full: an administrator frees space or the pods go to other nodes."),
    (r"invalid reference|parse|InvalidImageName", "spec.pod.image is not a valid image name: correct it."),
    (r"signature", "The image's signature is not accepted by the cluster's policy: sign it, or use an accepted one."),
    (r"x509|certificate", "The node does not trust the registry's certificate: an administrator adds its authority."),
    (
        r"no such host|dial tcp|timeout|timed out|connection refused|unavailable|EOF",
        "The node cannot reach the registry: check its network, or use a mirror in spec.pod.image.",
    ),
)  # fmt: skip

_SIGNAL_REMEDIES: Final = MappingProxyType(
    {
        "SIGBUS": "Most often /dev/shm is full: raise spec.pod.shmSize.",
        "SIGILL": "The image's libraries need a CPU with other instructions: choose other nodes or another image.",
    }
)


def pull_remedy(message: str) -> str:
    """Return what to do about an image that cannot be pulled, by the words of the container runtime."""
    found = (text for pattern, text in _PULL_REMEDIES if re.search(pattern, message, re.IGNORECASE))
    return next(found, REMEDIES[Reason.IMAGE_PULL_FAILED])


def signal_remedy(name: str) -> str:
    """Return what to do about a process that a signal ended."""
    return _SIGNAL_REMEDIES.get(name, REMEDIES[Reason.UNKNOWN])
