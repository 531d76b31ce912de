"""Why a job stops: the closed list of reasons, what each leads to, and the exit code that carries it.

The codes avoid 1 and 2 beyond their usual meaning and everything from 126 up, which shells and signals own.
"""

from enum import StrEnum, unique
from types import MappingProxyType


@unique
class Reason(StrEnum):
    """``failure.reason`` in the status; nothing else is ever written there."""

    INVALID_SPEC = "InvalidSpec"
    CONFIG_ERROR = "ConfigError"
    DATA_ERROR = "DataError"
    MODEL_NOT_FOUND = "ModelNotFound"
    ACCESS_DENIED = "AccessDenied"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    NON_FINITE_LOSS = "NonFiniteLoss"
    GATE_FAILED = "GateFailed"
    NODE_LOST = "NodeLost"
    EVICTED = "Evicted"
    PREEMPTED = "Preempted"
    RENDEZVOUS_FAILED = "RendezvousFailed"
    COLLECTIVE_TIMEOUT = "CollectiveTimeout"
    STALLED = "Stalled"
    STORAGE_UNAVAILABLE = "StorageUnavailable"
    UNKNOWN = "Unknown"
    DEVICE_OUT_OF_MEMORY = "DeviceOutOfMemory"
    HOST_OUT_OF_MEMORY = "HostOutOfMemory"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    PENDING_DEADLINE_EXCEEDED = "PendingDeadlineExceeded"
    RESTART_LIMIT_EXCEEDED = "RestartLimitExceeded"


@unique
class Disposition(StrEnum):
    """What happens after a reason."""

    USER_MUST_FIX = "UserMustFix"
    RETRY = "Retry"
    ADAPT_AND_RETRY = "AdaptAndRetry"
    LIMIT = "Limit"


COMPLETE = 0

_CODES = MappingProxyType(
    {
        Reason.INVALID_SPEC: 2,
        Reason.CONFIG_ERROR: 64,
        Reason.DATA_ERROR: 65,
        Reason.MODEL_NOT_FOUND: 66,
        Reason.ACCESS_DENIED: 67,
        Reason.IMAGE_PULL_FAILED: 68,
        Reason.NON_FINITE_LOSS: 69,
        Reason.GATE_FAILED: 70,
        Reason.NODE_LOST: 71,
        Reason.EVICTED: 72,
        Reason.RENDEZVOUS_FAILED: 73,
        Reason.COLLECTIVE_TIMEOUT: 74,
        Reason.PREEMPTED: 75,
        Reason.STALLED: 76,
        Reason.STORAGE_UNAVAILABLE: 77,
        Reason.UNKNOWN: 1,
        Reason.DEVICE_OUT_OF_MEMORY: 78,
        Reason.HOST_OUT_OF_MEMORY: 79,
        Reason.DEADLINE_EXCEEDED: 80,
        Reason.PENDING_DEADLINE_EXCEEDED: 81,
        Reason.RESTART_LIMIT_EXCEEDED: 82,
    }
)
_REASONS = MappingProxyType({code: reason for reason, code in _CODES.items()})
# 128 + SIGTERM is a request to leave. 128 + SIGKILL is most often the OOM killer, which other evidence must confirm.
_SIGTERM_EXIT = 143

_USER = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.CONFIG_ERROR,
        Reason.DATA_ERROR,
        Reason.MODEL_NOT_FOUND,
        Reason.ACCESS_DENIED,
        Reason.IMAGE_PULL_FAILED,
        Reason.NON_FINITE_LOSS,
        Reason.GATE_FAILED,
    }
)
_ADAPT = frozenset({Reason.DEVICE_OUT_OF_MEMORY, Reason.HOST_OUT_OF_MEMORY})
_LIMITS = frozenset({Reason.DEADLINE_EXCEEDED, Reason.PENDING_DEADLINE_EXCEEDED, Reason.RESTART_LIMIT_EXCEEDED})


def exit_code(reason: Reason) -> int:
    """Return the exit code that carries a reason, 1 to 82."""
    return _CODES[reason]


def reason_of(code: int) -> Reason | None:
    """Return the reason that an exit code carries; None for 0, Unknown for a code of nobody's."""
    if code == COMPLETE:
        return None
    if code == _SIGTERM_EXIT:
        return Reason.PREEMPTED
    return _REASONS.get(code, Reason.UNKNOWN)


def disposition(reason: Reason) -> Disposition:
    """Return what happens after a reason: fix, retry, adapt or stop at a limit."""
    if reason in _USER:
        return Disposition.USER_MUST_FIX
    if reason in _ADAPT:
        return Disposition.ADAPT_AND_RETRY
    if reason in _LIMITS:
        return Disposition.LIMIT
    return Disposition.RETRY


def retryable(reason: Reason) -> bool:
    """Tell whether a new attempt may follow."""
    return disposition(reason) in {Disposition.RETRY, Disposition.ADAPT_AND_RETRY}
