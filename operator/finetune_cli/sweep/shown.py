"""What a person sees of a sweep: a table that is redrawn on a terminal, a line per change otherwise, or JSON."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from finetune_api.sweep import FineTuneSweep, FineTuneSweepStatus
from finetune_cli.display import OutputForm
from finetune_cli.sweep.engine import End
from finetune_cli.sweep.search import Trial
from finetune_cli.sweep.telling import status_of, trial_status

if TYPE_CHECKING:
    from rich.table import Table


class Display(Protocol):
    """Shows a sweep."""

    def trials(self, trials: Sequence[Trial]) -> None:
        """Show the trials after a change."""
        ...

    def end(self, status: FineTuneSweepStatus) -> None:
        """Show how it ended."""
        ...


class JsonDisplay:
    """The status as one line at the end; with `lines` a changed trial as one line before it."""

    def __init__(self, *, lines: bool) -> None:
        """Remember whether changes are shown."""
        self._changed = _Changed(lambda trial: _print(trial_status(trial).model_dump_json(by_alias=True)))
        self._lines = lines

    def trials(self, trials: Sequence[Trial]) -> None:
        """Print what changed."""
        if self._lines:
            self._changed.look(trials)

    def end(self, status: FineTuneSweepStatus) -> None:
        """Print the status."""
        _print(status.model_dump_json(by_alias=True, exclude_none=True))


class PlainDisplay:
    """A line per change, the table at the end."""

    def __init__(self, sweep: FineTuneSweep) -> None:
        """Remember the sweep."""
        self._metric = sweep.spec.objective.metric
        self._changed = _Changed(lambda trial: _print(_line(trial, self._metric)))

    def trials(self, trials: Sequence[Trial]) -> None:
        """Print what changed."""
        self._changed.look(trials)

    def end(self, status: FineTuneSweepStatus) -> None:
        """Print the table, then the best trial's manifest."""
        from rich.console import Console  # noqa: PLC0415 - 0.1 s that other commands do not need

        Console(width=None if sys.stdout.isatty() else 160).print(table(status))
        _tell_end(status)


class TerminalDisplay:
    """The table, redrawn with every change."""

    def __init__(self, sweep: FineTuneSweep) -> None:
        """Start with an empty table."""
        from rich.live import Live  # noqa: PLC0415 - as above

        self._sweep = sweep
        self._live = Live(auto_refresh=False)
        self._live.start()

    def trials(self, trials: Sequence[Trial]) -> None:
        """Draw it again."""
        self._live.update(table(status_of(self._sweep, trials, End("Interrupted"), Path())), refresh=True)

    def end(self, status: FineTuneSweepStatus) -> None:
        """Draw it for the last time, then print the best trial's manifest."""
        self._live.update(table(status), refresh=True)
        self._live.stop()
        _tell_end(status)


def make_display(form: OutputForm, sweep: FineTuneSweep) -> Display:
    """Return the display for a form; text is a live table only on a terminal."""
    if form != "text":
        return JsonDisplay(lines=form == "jsonl")
    return TerminalDisplay(sweep) if sys.stdout.isatty() else PlainDisplay(sweep)


def table(status: FineTuneSweepStatus) -> "Table":
    """Return the trials as a table; the best one is marked."""
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415

    paths = list(status.trials[0].parameters) if status.trials else []
    found = Table("trial", *paths, status.metric, "evaluations", "state")
    for each in status.trials:
        mark = " *" if status.best is not None and status.best.number == each.number else ""
        values = [_short(value) for value in each.parameters.values()]
        state = f"{each.state}: {each.reason}" if each.reason else each.state
        cells = [f"{each.number}{mark}", *values, each.value or "", str(each.evaluations), state]
        found.add_row(*(Text(cell) for cell in cells), style="bold" if mark else None)
    return found


class _Changed:
    """Hands on the trials that differ from the last look."""

    def __init__(self, tell: Callable[[Trial], None]) -> None:
        self._tell = tell
        self._seen: dict[int, Trial] = {}

    def look(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            if self._seen.get(trial.number) != trial:
                self._seen[trial.number] = trial
                self._tell(trial)


def _line(trial: Trial, metric: str) -> str:
    values = ", ".join(f"{path} {_short(value)}" for path, value in trial.parameters.items())
    value = "" if trial.value is None else f": {metric} {trial.value:.4f} after {len(trial.values)}"
    reason = f" ({trial.reason}: {trial.message})" if trial.reason else ""
    return f"trial {trial.number:<4} {trial.state:<9} {values}{value}{reason}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _tell_end(status: FineTuneSweepStatus) -> None:
    if status.best is not None:
        _print(f"best: trial {status.best.number}, {status.metric} {status.best.value}")
        for name, value in status.best.metrics.items():
            _print(f"  {name}: {value}")
        _print(f"artifact: {status.best.artifact.uri}")
        _print(f"---\n{yaml.safe_dump(status.best.manifest, sort_keys=False, width=120)}".rstrip())
    if status.phase == "Interrupted":
        _print("Interrupted. The same command continues.")
    if status.phase == "Failed":
        _print(f"Failed: {status.message}")


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
