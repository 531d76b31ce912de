"""Which of several results is the machine's, and who may write checkpoints (FAULTS 25, 41, 47, 50, 52)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api.exit_codes import Reason
from finetune_api.result import Failure, Result
from finetune_trainer import checkpoint, fence
from finetune_trainer.errors import Preempted
from finetune_trainer.node import RankResult
from finetune_trainer.verdict import Ending, judge

COMPLETE = Result(outcome="Complete", step=4)
INTERRUPTED = Result(outcome="Interrupted", step=3)
SIGKILLED = -9


def failed(reason: Reason) -> Result:
    return Result(outcome="Failed", failure=Failure.of(reason, "what happened"))


def ending(*results: Result | None, **seen: Any) -> Ending:
    """Return what was seen of ranks that left these results, in this order; None left nothing."""
    found = [RankResult(rank, rank, result) for rank, result in enumerate(results) if result is not None]
    return Ending(**{"ranks": range(len(results)), "found": found, "started": True, "code": 1} | seen)


def outcome(result: Result) -> str:
    return result.failure.reason if result.failure else result.outcome


LOST_PEER, DATA = failed(Reason.RENDEZVOUS_FAILED), failed(Reason.DATA_ERROR)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (ending(COMPLETE, COMPLETE, code=0), "Complete"),
        (ending(LOST_PEER, DATA), "DataError"),
        (ending(LOST_PEER, LOST_PEER), "RendezvousFailed"),
        (ending(LOST_PEER, None), "Unknown"),
        (ending(None, code=SIGKILLED, oom_killed=True), "HostOutOfMemory"),
        (ending(None, code=-250), "Unknown"),
        (ending(DATA, None, oom_killed=True), "DataError"),
        (ending(COMPLETE, COMPLETE, stalled_s=900.0), "Stalled"),
        (ending(INTERRUPTED, INTERRUPTED, asked_to_stop=True), "Interrupted"),
        (ending(INTERRUPTED, LOST_PEER), "Interrupted"),
        (ending(INTERRUPTED, None), "Unknown"),
        (ending(INTERRUPTED, None, asked_to_stop=True), "Interrupted"),
        (ending(None, None, asked_to_stop=True, started=False, code=-15), "Interrupted"),
        (ending(LOST_PEER, None, asked_to_stop=True), "Interrupted"),
        (ending(None, asked_to_stop=True, oom_killed=True, code=SIGKILLED), "HostOutOfMemory"),
        (ending(DATA, asked_to_stop=True), "DataError"),
        (ending(COMPLETE, asked_to_stop=True, code=0), "Complete"),
        (ending(None, started=False, alone=False), "RendezvousFailed"),
        (ending(None, started=False, alone=True), "Unknown"),
        (ending(None, started=True, alone=False), "Unknown"),
    ],
)
def test_the_cause_wins_over_what_follows_from_it(tmp_path: Path, seen: Ending, expected: str):
    assert outcome(judge(seen, tmp_path)) == expected


def test_the_rank_to_blame_has_its_number_among_all_machines(tmp_path: Path):
    seen = Ending(ranks=range(2, 4), found=[RankResult(2, 1.0, LOST_PEER)], started=True, code=1, alone=False)
    result = judge(seen, tmp_path)

    assert result.failure is not None
    assert result.failure.rank == 3
    assert "process 3 left no result" in result.failure.message


def state(step: int, writer: fence.Writer) -> checkpoint.TrainState:
    return checkpoint.TrainState(step, {"w": torch.zeros(1)}, {"writer": writer.to_dict()})


OLD, NEW = fence.Writer(1, "old"), fence.Writer(1, "new")


def test_a_pod_that_was_replaced_may_not_write_and_the_new_one_may(tmp_path: Path):
    fence.claim(tmp_path, OLD)
    checkpoint.save(tmp_path, state(1, OLD), keep=2)
    fence.claim(tmp_path, NEW)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(Preempted, match="pod new of attempt 1 writes here now"):
        checkpoint.save(tmp_path, state(2, OLD), keep=2)

    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    place = checkpoint.save(tmp_path, state(2, NEW), keep=2)
    assert json.loads((place / "meta.json").read_text())["writer"] == {"attempt": 1, "pod": "new"}


def test_a_late_pod_of_an_earlier_attempt_may_not_even_begin(tmp_path: Path):
    fence.claim(tmp_path, fence.Writer(2, "new"))
    with pytest.raises(Preempted):
        fence.claim(tmp_path, OLD)

    assert fence.Writer.of(json.loads((tmp_path / fence.MARKER_FILE).read_text())) == fence.Writer(2, "new")


def test_a_run_on_one_machine_has_no_marker_and_a_damaged_one_stops_nobody(tmp_path: Path):
    fence.claim(tmp_path, fence.Writer())
    fence.check(tmp_path, fence.Writer())
    assert not list(tmp_path.iterdir())

    (tmp_path / fence.MARKER_FILE).write_text("{half")
    fence.check(tmp_path, NEW)
    fence.claim(tmp_path, NEW)
    fence.check(tmp_path, NEW)
