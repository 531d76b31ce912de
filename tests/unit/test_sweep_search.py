"""What a sweep does next, and that a kill at any write of its journal changes nothing."""

from pathlib import Path
from typing import Any

import pytest

from finetune_api.exit_codes import Reason
from finetune_api.result import ArtifactRef, Failure
from finetune_api.sweep_space import validate_sweep
from finetune_cli.sweep.engine import search
from finetune_cli.sweep.journal import Journal
from finetune_cli.sweep.proposals import propose
from finetune_cli.sweep.runner import Leg
from finetune_cli.sweep.search import Trial, best, next_move
from support.sweeps import sweep_manifest

# Loss after each evaluation, trial by trial; a trial is at its end after nine.
TABLE = {
    0: [0.9],
    1: [0.5, 0.5, 0.45],
    2: [0.7],
    3: [0.6],
    4: [0.8],
    5: [0.4, 0.4, 0.42],
    6: [0.3, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.1],
    7: [1.0],
    8: [0.2, 0.2, 0.3],
}
MOVES = [
    *[(0, 1), (1, 1), (2, 1)],
    (1, 3),  # the best of three goes on
    *[(3, 1), (4, 1), (5, 1)],
    (5, 3),  # the second of six
    (6, 1),
    (6, 3),  # better than the two of seven that went on
    (6, 9),  # and the best of the three that came to the second pause
    *[(7, 1), (8, 1)],
    (8, 3),  # the third of nine; four came to the second pause, of which one may go on, and that one did
]


class Known:
    """Trials whose values are known beforehand, and which keep what they did as a trial's work folder does."""

    def __init__(self, value: Any, total: int = 9):
        self.value, self.total = value, total
        self.moves: list[tuple[int, int | None]] = []
        self.dropped: set[int] = set()

    def run(self, number: int, job: Any, until: int | None, on_value: Any) -> Leg:
        self.moves.append((number, until))
        count = self.total if until is None else min(until, self.total)
        values = tuple(self.value(number, job, at) for at in range(1, count + 1))
        on_value(values)
        if count < self.total:
            return Leg("Paused", values)
        return Leg("Complete", values, {"validation/loss": values[-1] or 0.0}, ArtifactRef(uri=str(number), digest="0"))

    def drop(self, number: int) -> None:
        self.dropped.add(number)


def by_table(number: int, _job: Any, at: int) -> float:
    return TABLE[number][at - 1]


def by_rate(_number: int, job: Any, at: int) -> float:
    return abs(job.spec.training.learning_rate - 0.01) + job.spec.method.rank / 1000 + 1 / (10 * at)


def nothing(_: object) -> None: ...


def run_all(path: Path, document: dict[str, Any], runner: Any) -> tuple[Trial, ...]:
    sweep = validate_sweep(document)
    journal = Journal.open(path, sweep.spec)
    try:
        search(sweep, journal, runner, nothing)
        return journal.trials
    finally:
        journal.close()


def test_asha_promotes_as_worked_out_by_hand(tmp_path: Path):
    document = sweep_manifest(algorithm={"type": "random"}, earlyStopping={"first": 1, "reduction": 3}, trials=9)
    runner = Known(by_table)
    trials = run_all(tmp_path / "j", document, runner)

    assert runner.moves == MOVES
    assert [each.number for each in trials if each.state == "Complete"] == [6]


def test_when_too_few_came_for_a_promotion_the_best_is_trained_to_its_end(tmp_path: Path):
    document = sweep_manifest(algorithm={"type": "random"}, earlyStopping={"first": 2, "reduction": 4}, trials=3)
    runner = Known(lambda number, _, at: (3 - number) / at)
    trials = run_all(tmp_path / "j", document, runner)

    assert runner.moves == [(0, 2), (1, 2), (2, 2), (2, None)]
    assert [each.state for each in trials] == ["Paused", "Paused", "Complete"]


@pytest.mark.parametrize(("direction", "winner"), [("minimize", 1), ("maximize", 2)])
def test_the_best_is_by_direction_and_what_is_not_finite_is_never_it(direction: str, winner: int):
    spec = validate_sweep(sweep_manifest(objective={"metric": "loss", "direction": direction})).spec
    values = (None, 0.5, 0.9, 0.5, 0.9)
    trials = [Trial(number=n, parameters={}, state="Complete", values=(value,)) for n, value in enumerate(values)]
    found = best(spec, trials)

    assert found is not None
    assert found.number == winner


def test_a_trial_that_fails_by_its_own_values_does_not_end_the_sweep_and_another_failure_does(tmp_path: Path):
    class Failing(Known):
        def run(self, number: int, job: Any, until: int | None, on_value: Any) -> Leg:
            super().run(number, job, until, on_value)
            reason = {0: Reason.NON_FINITE_LOSS, 2: Reason.DATA_ERROR}.get(number)
            return Leg("Failed", failure=Failure.of(reason, "bad")) if reason else Leg("Complete", (1.0,))

    document = sweep_manifest(algorithm={"type": "random"}, trials=4)
    runner = Failing(by_rate)
    trials = run_all(tmp_path / "j", document, runner)
    assert [(each.number, each.state) for each in trials] == [(0, "Failed"), (1, "Complete"), (2, "Running")]

    run_all(tmp_path / "j", document, runner)
    assert [number for number, _ in runner.moves] == [0, 1, 2, 2]


class Killed(BaseException):
    """The process is no more."""


def kill_at(monkeypatch: pytest.MonkeyPatch, write: int, part: float) -> None:
    """Kill at a write of the journal, when this part of its line is on the disk."""
    import os as real

    count = 0

    def torn(descriptor: int, line: bytes) -> int:
        nonlocal count
        count += 1
        if count == write:
            real.write(descriptor, line[: round(len(line) * part)])
            raise Killed
        return real.write(descriptor, line)

    class Os:
        write = staticmethod(torn)

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    monkeypatch.setattr("finetune_cli.sweep.journal.os", Os())


@pytest.mark.parametrize("algorithm", ["random", "tpe"])
def test_killed_at_every_write_a_sweep_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
):
    halving = {"first": 1, "reduction": 2}
    document = sweep_manifest(algorithm={"type": algorithm}, earlyStopping=halving, trials=8)
    whole = run_all(tmp_path / "whole", document, Known(by_rate))
    lines = (tmp_path / "whole").read_bytes().count(b"\n")
    assert lines > 20

    for write in range(1, lines + 1, 1 if algorithm == "random" else 9):
        path = tmp_path / f"killed-{write}"
        with monkeypatch.context() as patch:
            kill_at(patch, write, part=(0, 0.5, 1)[write % 3])
            with pytest.raises(Killed):
                run_all(path, document, Known(by_rate))
        assert run_all(path, document, Known(by_rate)) == whole
        assert path.read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_journal_cut_at_any_byte_keeps_its_whole_lines(tmp_path: Path):
    document = sweep_manifest(algorithm={"type": "random"}, trials=2)
    spec = validate_sweep(document).spec
    run_all(tmp_path / "j", document, Known(by_rate))
    text = (tmp_path / "j").read_bytes()
    for length in range(text.index(b"\n") + 1, len(text)):
        (tmp_path / "cut").write_bytes(text[:length])
        journal = Journal.open(tmp_path / "cut", spec)
        journal.close()
        assert (tmp_path / "cut").read_bytes() == text[: text.rfind(b"\n", 0, length) + 1]


def test_another_sweep_and_a_damaged_line_are_refused_and_more_trials_are_not(tmp_path: Path):
    from finetune_api.validation import InvalidSpec

    document = sweep_manifest(algorithm={"type": "random"}, trials=2)
    run_all(tmp_path / "j", document, Known(by_rate))
    assert len(run_all(tmp_path / "j", sweep_manifest(algorithm={"type": "random"}, trials=3), Known(by_rate))) == 3

    with pytest.raises(InvalidSpec, match="another sweep"):
        run_all(tmp_path / "j", sweep_manifest(algorithm={"type": "random"}, trials=2, seed=1), Known(by_rate))
    damaged = (tmp_path / "j").read_bytes().replace(b'"kind":"start"', b'"kind";"start"', 1)
    (tmp_path / "j").write_bytes(damaged)
    with pytest.raises(InvalidSpec, match="line 2: not a line of a sweep's journal"):
        run_all(tmp_path / "j", document, Known(by_rate))


def test_a_grid_is_tried_in_order_and_ends(tmp_path: Path):
    parameters = [
        {"path": "training.learningRate", "type": "choice", "values": [0.1, 0.01]},
        {"path": "method.rank", "type": "int", "min": 4, "max": 6},
    ]
    trials = run_all(tmp_path / "j", sweep_manifest(parameters=parameters, algorithm={"type": "grid"}), Known(by_rate))

    assert [tuple(each.parameters.values()) for each in trials] == [(r, k) for r in (0.1, 0.01) for k in (4, 5, 6)]
    assert (
        next_move(validate_sweep(sweep_manifest(parameters=parameters, algorithm={"type": "grid"})).spec, trials)
        is None
    )


def test_proposals_keep_to_their_ranges_and_tpe_finds_what_chance_does_not():
    parameters = [
        {"path": "training.learningRate", "type": "loguniform", "min": 1e-5, "max": 1.0},
        {"path": "method", "type": "choice", "values": [{"type": "lora"}, {"type": "ia3"}]},
        {"path": "training.warmup", "type": "uniform", "min": 0.1, "max": 0.2},
        {"path": "training.batchSize", "type": "int", "min": 8, "max": 9},
    ]
    near: dict[str, int] = {}
    for algorithm in ("random", "tpe"):
        spec = validate_sweep(sweep_manifest(parameters=parameters, algorithm={"type": algorithm}, trials=40)).spec
        trials: list[Trial] = []
        for number in range(40):
            drawn = propose(spec, trials)
            rate, method, warmup, batch = drawn.values()
            assert isinstance(rate, float)
            assert 1e-5 <= rate <= 1.0
            assert method in parameters[1]["values"]
            assert isinstance(warmup, float)
            assert 0.1 <= warmup <= 0.2
            assert batch in {8, 9}
            loss = abs(rate - 0.01)
            trials.append(Trial(number=number, parameters=drawn, state="Complete", values=(loss,)))
        near[algorithm] = sum(each.value < 0.01 and each.parameters["training.learningRate"] > 0.003 for each in trials)

    assert near["tpe"] > 2 * near["random"]
