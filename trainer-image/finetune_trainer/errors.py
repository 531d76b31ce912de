"""Why a trainer stops: one exception tree, one reason from the contract's closed list each.

An error here is meant for the person who wrote the manifest or the data: it says what was found and what to do.
A programmer's error is an ``assert`` or whatever Python raises; it ends as reason ``Unknown``, traceback in the log.
"""

from typing import ClassVar

from finetune_api.exit_codes import Reason


def printable(text: str) -> str:
    """Return a text with control and direction characters as escapes: a hostile label must not move the cursor."""
    return "".join(each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in text)


class TrainerError(Exception):
    """A failure with a reason from the closed list, a message and a remedy."""

    reason: ClassVar[Reason] = Reason.UNKNOWN

    def __init__(self, message: str, *, remedy: str) -> None:
        self.message = printable(message)
        super().__init__(self.message)
        self.remedy = remedy


class ConfigError(TrainerError):
    """The manifest asks for something that this model, data or machine cannot do."""

    reason = Reason.CONFIG_ERROR


class DataError(TrainerError):
    """A file or row of the data cannot be used."""

    reason = Reason.DATA_ERROR


class ModelNotFound(TrainerError):
    """The model is missing, damaged, of the wrong architecture, or in a refused format."""

    reason = Reason.MODEL_NOT_FOUND


class AccessDenied(TrainerError):
    """The model or data is there, but not for us."""

    reason = Reason.ACCESS_DENIED


class NonFiniteLoss(TrainerError):
    """A loss or gradient is NaN or infinite."""

    reason = Reason.NON_FINITE_LOSS


class GateFailed(TrainerError):
    """Training finished and the evaluation gate was not reached."""

    reason = Reason.GATE_FAILED


class Preempted(TrainerError):
    """The process was asked to stop; a checkpoint was saved."""

    reason = Reason.PREEMPTED


class StorageUnavailable(TrainerError):
    """A checkpoint or artifact could not be written, or a store could not be reached."""

    reason = Reason.STORAGE_UNAVAILABLE


class HostOutOfMemory(TrainerError):
    """The process needed more memory than its limit."""

    reason = Reason.HOST_OUT_OF_MEMORY


class DeviceOutOfMemory(TrainerError):
    """The accelerator's memory did not suffice."""

    reason = Reason.DEVICE_OUT_OF_MEMORY
