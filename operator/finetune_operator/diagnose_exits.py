"""Why a container ended: its Result, the kubelet's word for it, and its exit code, in this order. Pure."""

import signal
from dataclasses import replace
from typing import Final

from finetune_api.exit_codes import Reason, exit_code, reason_of
from finetune_api.result import Failure, Result
from finetune_operator.diagnose_clues import SECONDARY, Clue, Standing
from finetune_operator.diagnose_policy import SIGKILL_EXIT
from finetune_operator.diagnose_remedies import REMEDIES, signal_remedy
from finetune_operator.diagnose_text import clean
from finetune_operator.diagnose_waiting import cannot_start
from finetune_operator.observe import ContainerFacts, PodFacts

_SIGNALS_FROM: Final = 128
# The OOM killer may take a data loader or a rank; then the trainer ends as one that lost a process.
_OOM_EXPLAINS: Final = frozenset({Reason.UNKNOWN, Reason.RENDEZVOUS_FAILED, Reason.COLLECTIVE_TIMEOUT})
_START_ERRORS: Final = frozenset({"StartError", "ContainerCannotRun"})
_OUR_CODES_FROM: Final = exit_code(Reason.CONFIG_ERROR)
_QUOTE: Final = 500


def exit_clue(pod: PodFacts, last_heartbeat: str) -> Clue | None:
    """Return the clue of the container whose end ended the pod.

    Args:
        pod: The pod.
        last_heartbeat: When the trainer last reported, as text; empty for unknown.

    Returns:
        The clue, or None when no container failed.
    """
    trainer = pod.trainer
    if trainer is not None and trainer.state == "terminated":
        return _trainer_clue(pod, trainer, last_heartbeat)
    if trainer is not None and trainer.state == "running":
        return None
    # Without a trainer that ran, what failed before it is the cause; a sidecar's end never is.
    failed = (each for each in pod.containers if each.exit_code)
    return next((_initialiser_clue(pod, each) for each in failed), None)


def read_result(container: ContainerFacts | None) -> Result | None:
    """Return the Result in a container's termination message; None when there is none or it is not one."""
    if container is None or container.state != "terminated":
        return None
    try:
        return Result.from_json(container.message.encode("utf-8", "replace"))
    except ValueError:
        return None


def code_clue(reason: Reason, code: int, pod: str, rank: int | None, last_heartbeat: str) -> Clue:
    """Return the clue of an exit code alone."""
    if reason is Reason.UNKNOWN:
        return _crash(code, pod, rank, last_heartbeat)
    what = f"the trainer ended with exit code {code}, which says {reason.value}"
    return Clue(_standing(reason), reason, what, pod, rank, exit_code=code)


def _trainer_clue(pod: PodFacts, trainer: ContainerFacts, last_heartbeat: str) -> Clue | None:
    code = trainer.exit_code or 0
    result = read_result(trainer)
    told = result.failure if result is not None else None
    if told is None and code == 0:
        return None
    if trainer.reason in _START_ERRORS:
        return _start_clue(pod, trainer, code)
    reason = told.reason if told is not None else reason_of(code) or Reason.UNKNOWN
    if trainer.reason == "OOMKilled" and reason in _OOM_EXPLAINS:
        return _memory_clue(pod, code, last_heartbeat, "OOMKilled")
    if told is not None:
        return _told(pod, told, code)
    if _lost_by_runtime(trainer, code):
        said = f": {trainer.message}" if trainer.message else ""
        what = f"the node lost track of the container, as after a restart of the node{said}"
        standing = Standing.CONSEQUENCE if pod.deleting else Standing.CAUSE
        return _of(pod, standing, Reason.NODE_LOST, what, code)
    if result is not None and result.outcome == "Interrupted":
        what = f"the trainer was asked to stop and left at step {result.step}"
        return _of(pod, Standing.CONSEQUENCE, Reason.PREEMPTED, what, code)
    if reason is Reason.HOST_OUT_OF_MEMORY:
        return _memory_clue(pod, code, last_heartbeat, f"exit code {code}")
    return _by_code(pod, trainer, reason, code, last_heartbeat)


def _by_code(pod: PodFacts, trainer: ContainerFacts, reason: Reason, code: int, last_heartbeat: str) -> Clue:
    clue = code_clue(reason, code, pod.name, pod.index, last_heartbeat)
    # A peer that did not leave within its grace period is killed; that is no crash of its own.
    standing = Standing.CONSEQUENCE if pod.deleting and code == SIGKILL_EXIT else clue.standing
    said = clean(trainer.message, _QUOTE, keep_end=True)
    what = f"{clue.what}; its last words: {said}" if said else clue.what
    return Clue(standing, reason, what, pod.name, pod.index, clue.remedy, code, pod.deleting)


def _initialiser_clue(pod: PodFacts, container: ContainerFacts) -> Clue:
    code = container.exit_code or 0
    if container.reason in _START_ERRORS:
        return _start_clue(pod, container, code)
    result = read_result(container)
    if result is not None and result.failure is not None:
        return _told(pod, result.failure, code)
    # An init container that others inject does not know our codes; those below 64 mean anything.
    known = reason_of(code) if code >= _OUR_CODES_FROM else None
    reason = known or Reason.UNKNOWN
    oom = container.reason == "OOMKilled" and reason is Reason.UNKNOWN
    reason = Reason.HOST_OUT_OF_MEMORY if oom else reason
    said = clean(container.message, _QUOTE, keep_end=True) or container.reason
    what = f"init container {container.name} ended with exit code {code} ({reason.value}): {said}"
    return _of(pod, _standing(reason), reason, what, code)


def _told(pod: PodFacts, told: Failure, code: int) -> Clue:
    rank = pod.index if told.rank is None else told.rank
    return Clue(
        _standing(told.reason),
        told.reason,
        told.message,
        pod.name,
        rank,
        told.remedy,
        code or told.exit_code,
        pod.deleting,
    )


def _start_clue(pod: PodFacts, container: ContainerFacts, code: int) -> Clue:
    what = f"container {container.name} could not be started: {container.message or container.reason}"
    if cannot_start(container.message):
        remedy = "Use an image that has the trainer and is built for the node's CPU type: spec.pod.image."
        return replace(_of(pod, Standing.CAUSE, Reason.CONFIG_ERROR, what, code), remedy=remedy)
    return _of(pod, Standing.CRASH, Reason.UNKNOWN, what, code)


def _memory_clue(pod: PodFacts, code: int, last_heartbeat: str, how: str) -> Clue:
    if pod.memory_limit:
        what = f"the trainer needed more memory than its limit of {pod.memory_limit} ({how})"
        remedy = REMEDIES[Reason.HOST_OUT_OF_MEMORY]
    else:
        what = f"the trainer has no memory limit and the node's memory ran out ({how})"
        remedy = "Set workers.resources.limits.memory to what it needs, or lower training.batchSize."
    what += _last_sign(last_heartbeat)
    return replace(_of(pod, Standing.CAUSE, Reason.HOST_OUT_OF_MEMORY, what, code), remedy=remedy)


def _crash(code: int, pod: str, rank: int | None, last_heartbeat: str) -> Clue:
    name = _signal_name(code)
    if code == SIGKILL_EXIT:
        what = "the trainer was killed (SIGKILL); nothing that was seen says by whom, no OOM kill and no eviction"
        remedy = "If it recurs, raise workers.resources.limits.memory: a kill by the node's OOM killer looks the same."
    elif name:
        what, remedy = f"the trainer crashed with {name}", signal_remedy(name)
    else:
        what, remedy = f"the trainer ended with exit code {code} and gave no reason", REMEDIES[Reason.UNKNOWN]
    return Clue(Standing.CRASH, Reason.UNKNOWN, what + _last_sign(last_heartbeat), pod, rank, remedy, code)


def _of(pod: PodFacts, standing: Standing, reason: Reason, what: str, code: int) -> Clue:
    return Clue(standing, reason, what, pod.name, pod.index, "", code, pod.deleting)


def _standing(reason: Reason) -> Standing:
    if reason in SECONDARY:
        return Standing.CONSEQUENCE
    return Standing.CRASH if reason is Reason.UNKNOWN else Standing.CAUSE


def _lost_by_runtime(container: ContainerFacts, code: int) -> bool:
    # The kubelet's word, and that of the container runtime, which then gives code 255.
    return container.reason == "ContainerStatusUnknown" or (container.reason, code) == ("Unknown", 255)


def _signal_name(code: int) -> str:
    try:
        return signal.Signals(code - _SIGNALS_FROM).name
    except ValueError:
        return ""


def _last_sign(last_heartbeat: str) -> str:
    return f"; its last sign of life was at {clean(last_heartbeat, 64)}" if last_heartbeat else ""
