"""Why the processes of a machine ended: one result from what each of them left and what the launcher saw.

The root cause wins over what follows from it: a rank that lost its peer says so, but the peer's own reason counts.
"""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from finetune_api.exit_codes import Reason
from finetune_api.names import CHECKPOINTS_DIR
from finetune_api.result import CheckpointRef, Failure, Result
from finetune_trainer.node import RankResult

_SECONDARY: Final = frozenset({Reason.RENDEZVOUS_FAILED, Reason.COLLECTIVE_TIMEOUT, Reason.PREEMPTED})
_MORE_MEMORY: Final = "Give more memory, or lower training.batchSize or data.maxLength."


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What the launcher saw."""

    ranks: range
    """Those that it started."""
    found: Sequence[RankResult]
    """What they left."""
    started: bool
    """Whether any of them ran at all."""
    code: int
    """Exit code of the process that was started; negative for a signal."""
    asked_to_stop: bool = False
    stalled_s: float | None = None
    """The silence after which they were ended; None when they were not."""
    oom_killed: bool = False
    """Whether the kernel's out-of-memory counter rose meanwhile."""
    alone: bool = True
    """Whether there are no other machines."""


def judge(ending: Ending, work: Path) -> Result:
    """Return the one result of a machine.

    Args:
        ending: What was seen.
        work: The work folder, for the newest checkpoint.

    Returns:
        Complete, Interrupted, or Failed with the reason nearest to the cause.
    """
    silent = sorted(set(ending.ranks) - {each.rank for each in ending.found})
    failures = sorted(
        (each for each in ending.found if each.result.failure is not None), key=lambda each: (_follows(each), each.at)
    )
    if ending.stalled_s is not None:
        silence = f"one of the processes gave no sign of progress for {ending.stalled_s:.0f} s"
        return _failed(work, Reason.STALLED, silence, "It is started again from the newest checkpoint.")
    if failures and not _follows(failures[0]):
        return _blamed(failures[0])
    interrupted = [each.result for each in ending.found if each.result.outcome == "Interrupted"]
    if interrupted and (ending.asked_to_stop or not silent):
        return interrupted[0]
    if ending.asked_to_stop and not ending.oom_killed and (silent or failures):
        return _stopped(work)
    if silent:
        return _died(ending, silent, work)
    if failures:
        return _blamed(failures[0])
    return ending.found[0].result


def _follows(each: RankResult) -> bool:
    """Tell whether a failure follows from another process's, or from a request to stop."""
    return each.result.failure is not None and each.result.failure.reason in _SECONDARY


def _blamed(each: RankResult) -> Result:
    assert each.result.failure is not None, "internal: a failure without its reason"
    return each.result.model_copy(update={"failure": each.result.failure.model_copy(update={"rank": each.rank})})


def _died(ending: Ending, silent: list[int], work: Path) -> Result:
    how = f"was ended by {_signal_name(-ending.code)}" if ending.code < 0 else f"ended with code {ending.code}"
    who = f"process {', '.join(map(str, silent))} left no result; it {how}"
    if ending.oom_killed:
        return _failed(
            work, Reason.HOST_OUT_OF_MEMORY, f"{who}, and the kernel's out-of-memory counter rose", _MORE_MEMORY
        )
    if not ending.started and not ending.alone:
        remedy = "Read the output above; it is tried again."
        return _failed(work, Reason.RENDEZVOUS_FAILED, "the machines did not find each other in time", remedy)
    return _failed(work, Reason.UNKNOWN, who, "Read the output above; the newest checkpoint is kept.", silent[0])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _failed(work: Path, reason: Reason, message: str, remedy: str, rank: int | None = None) -> Result:
    place = _newest(work)
    failure = Failure.of(reason, message, remedy, rank)
    return Result(outcome="Failed", step=place.step if place else 0, failure=failure, checkpoint=place)


def _stopped(work: Path) -> Result:
    place = _newest(work)
    return Result(outcome="Interrupted", step=place.step if place else 0, checkpoint=place)


def _newest(work: Path) -> CheckpointRef | None:
    newest = max(work.glob(f"{CHECKPOINTS_DIR}/step-*"), key=lambda path: path.name, default=None)
    if newest is None:
        return None
    return CheckpointRef(step=int(newest.name.removeprefix("step-")), path=f"{CHECKPOINTS_DIR}/{newest.name}")
