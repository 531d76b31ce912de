"""What each pod, each container and the Job's condition says about an end: clues, ordered by how much they prove.

A gang dies together, so most of its pods end because another one did. Each source gives at most one clue; the clue of
the lowest standing is the cause, the others are its consequences. Pure.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from finetune_api.exit_codes import Reason
from finetune_operator.diagnose_policy import DISRUPTION_TARGET, RuleMatch
from finetune_operator.diagnose_waiting import fatal_waiting
from finetune_operator.observe import PodFacts


class Standing(IntEnum):
    """How near to the cause a clue is; the lowest decides."""

    DEADLINE = 0
    """The Job was ended by its own limit; what its pods did then follows from that."""
    DISRUPTION = 1
    """The cluster took a pod away and said so."""
    POD = 2
    """The kubelet ended or refused the whole pod."""
    CAUSE = 3
    """A container ended with a reason of its own."""
    CRASH = 4
    """A container ended, and nothing says why."""
    CONSEQUENCE = 5
    """A container lost its peers or was asked to stop."""
    NEVER_STARTED = 6
    """A pod cannot start. It explains why peers waited for it in vain, but neither a crash nor a stop; and a pull that
    fails at this moment may succeed at the next attempt, which is watched with patience."""


@dataclass(frozen=True, slots=True)
class Clue:
    """One source's answer to why the gang ended."""

    standing: Standing
    reason: Reason
    what: str
    pod: str
    rank: int | None
    remedy: str = ""
    exit_code: int | None = None
    deleting: bool = False
    """Whether the pod was being deleted, as the Job controller does to the peers of the one that failed."""


SECONDARY: Final = frozenset({Reason.RENDEZVOUS_FAILED, Reason.COLLECTIVE_TIMEOUT, Reason.PREEMPTED})
"""Reasons that one process has because of another."""

# Of the DisruptionTarget condition; one that others invented counts as an eviction.
_DISRUPTIONS: Final = MappingProxyType(
    {
        "PreemptionByScheduler": Reason.PREEMPTED,
        "PreemptionByKubeScheduler": Reason.PREEMPTED,
        "EvictionByEvictionAPI": Reason.EVICTED,
        "TerminationByKubelet": Reason.EVICTED,
        "DeletionByTaintManager": Reason.NODE_LOST,
        "DeletionByDeviceTaintManager": Reason.NODE_LOST,
        "DeletionByPodGC": Reason.NODE_LOST,
    }
)
# Of status.reason; the kubelet sets it together with phase Failed.
_POD_REASONS: Final = MappingProxyType(
    {
        "Evicted": Reason.EVICTED,
        "NodeLost": Reason.NODE_LOST,
        "NodeShutdown": Reason.EVICTED,
        "Preempting": Reason.PREEMPTED,
        "Shutdown": Reason.EVICTED,
        "Terminated": Reason.EVICTED,
        "DeadlineExceeded": Reason.DEADLINE_EXCEEDED,
    }
)
# pkg/kubelet/eviction/helpers.go: the pod broke a limit of its own. The kubelet sets no DisruptionTarget for these.
_OWN_LIMIT: Final = re.compile(
    r"exceeded its local ephemeral storage limit|exceeds the total limit of containers|Usage of EmptyDir volume"
)
_REJECTED: Final = "Pod was rejected"


def disruption_clue(pod: PodFacts, match: RuleMatch | None) -> Clue | None:
    """Return the clue of a pod's DisruptionTarget condition.

    Args:
        pod: The pod.
        match: What the Job's condition says. Rule 0 comes first, so a pod that the Job failed by its exit code had
            ended before it was disrupted: a drain that removes a failed pod is no eviction.

    Returns:
        The clue, or None when the pod was not disrupted.
    """
    condition = pod.condition(DISRUPTION_TARGET)
    if condition is None or condition.status != "True" or pod.phase == "Succeeded":
        return None
    if match is not None and match.pod == pod.name and match.exit_code is not None:
        return None
    reason = _DISRUPTIONS.get(condition.reason, Reason.EVICTED)
    if pod.reason == "Preempting":
        # The kubelet's condition says TerminationByKubelet for an eviction and for a preemption alike.
        reason = Reason.PREEMPTED
    where = f" on node {pod.node}" if pod.node else ""
    detail = pod.message if pod.reason in _POD_REASONS and pod.message else condition.message
    what = f"the cluster took the pod away{where}: {condition.reason}: {detail}"
    return _of_pod(Standing.DISRUPTION, reason, what, pod)


def pod_clue(pod: PodFacts) -> Clue | None:
    """Return the clue of a pod's own reason: evicted, lost, preempted, past its deadline, or refused by its node."""
    if pod.phase != "Failed" and pod.reason != "NodeLost":
        return None
    where = f" on node {pod.node}" if pod.node else ""
    what = f"the kubelet ended the pod{where}: {pod.reason}: {pod.message}"
    if pod.reason == "Evicted" and _OWN_LIMIT.search(pod.message):
        remedy = "Raise the size that is exceeded: pod.shmSize, storage.size, or the emptyDir's or container's limit."
        return _of_pod(Standing.POD, Reason.CONFIG_ERROR, what, pod, remedy)
    reason = _POD_REASONS.get(pod.reason)
    if reason is not None:
        standing = Standing.DEADLINE if reason is Reason.DEADLINE_EXCEEDED else Standing.POD
        return _of_pod(standing, reason, what, pod)
    if pod.reason and pod.message.startswith(_REJECTED):
        # OutOfcpu, UnexpectedAdmissionError, NodeAffinity and their like: this node will not do, another may. Counted,
        # since a broken device plugin refuses for ever.
        what = f"the node refused the pod{where}: {pod.reason}: {pod.message}"
        return _of_pod(Standing.POD, Reason.NODE_LOST, what, pod)
    return None


def waiting_clue(pod: PodFacts) -> Clue | None:
    """Return the clue of a pod that cannot start for good."""
    why = fatal_waiting(pod)
    if why is None or why.fatal is None:
        return None
    return _of_pod(Standing.NEVER_STARTED, why.fatal, why.message, pod, why.remedy)


def _of_pod(standing: Standing, reason: Reason, what: str, pod: PodFacts, remedy: str = "") -> Clue:
    trainer = pod.trainer
    code = trainer.exit_code if trainer is not None else None
    return Clue(standing, reason, what, pod.name, pod.index, remedy, code, pod.deleting)
