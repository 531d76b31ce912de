"""What a person sees: a progress bar on a terminal, one plain line per event otherwise, or JSON for programs."""

import sys
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from finetune_api.progress import ProgressEvent
from finetune_api.result import Result
from finetune_api.status import FineTuneJobStatus

OutputForm = Literal["text", "json", "jsonl"]


class Display(Protocol):
    """Shows a run."""

    def event(self, event: ProgressEvent) -> None:
        """Show one event."""
        ...

    def end(self, result: Result, status: FineTuneJobStatus) -> None:
        """Show how the run ended."""
        ...


class JsonDisplay:
    """Only the status, at the end; with `lines` every event before it."""

    def __init__(self, *, lines: bool) -> None:
        """Remember whether events are shown."""
        self._lines = lines

    def event(self, event: ProgressEvent) -> None:
        """Print the event as one line."""
        if self._lines:
            _print(event.to_json())

    def end(self, result: Result, status: FineTuneJobStatus) -> None:  # noqa: ARG002 - the status says it all
        """Print the status as one line."""
        _print(status.model_dump_json(by_alias=True, exclude_none=True))


class PlainDisplay:
    """One line per event."""

    def event(self, event: ProgressEvent) -> None:
        """Print the event."""
        _print(line_of(event))

    def end(self, result: Result, status: FineTuneJobStatus) -> None:  # noqa: ARG002
        """Print the outcome."""
        for line in outcome_lines(result):
            _print(line)


class TerminalDisplay:
    """A progress bar with loss, samples per second and the time left; other events scroll above it."""

    def __init__(self) -> None:
        """Start the bar, empty."""
        from rich.console import Console  # noqa: PLC0415 - 0.1 s that other commands do not need
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

        self._console = Console()
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._bar = self._progress.add_task("training", total=None, told="", visible=False)
        self._progress.start()

    def event(self, event: ProgressEvent) -> None:
        """Move the bar, or print the event above it."""
        if event.kind != "progress":
            self._console.print(line_of(event), markup=False, highlight=False)
            return
        data: dict[str, Any] = dict(event.data)
        told = f"loss {_number(data['loss'])}  {data['samplesPerSecond']:.1f} samples/s"
        self._progress.update(self._bar, completed=data["step"], total=data["maxSteps"], told=told, visible=True)

    def end(self, result: Result, status: FineTuneJobStatus) -> None:  # noqa: ARG002
        """Stop the bar and print the outcome."""
        self._progress.stop()
        for line in outcome_lines(result):
            self._console.print(line, markup=False, highlight=False)


def make_display(form: OutputForm) -> Display:
    """Return the display for a form; text is a progress bar only on a terminal."""
    if form != "text":
        return JsonDisplay(lines=form == "jsonl")
    return TerminalDisplay() if sys.stdout.isatty() else PlainDisplay()


def line_of(event: ProgressEvent) -> str:
    """Return an event as one line; control characters are escaped."""
    if event.kind != "progress":
        return f"{event.kind:<10} {_safe(event.message)}"
    data: dict[str, Any] = dict(event.data)
    return (
        f"{event.kind:<10} step {data['step']}/{data['maxSteps']} loss {_number(data['loss'])} "
        f"{data['samplesPerSecond']:.1f} samples/s, {data['etaSeconds']:.0f} s left"
    )


def outcome_lines(result: Result) -> list[str]:
    """Return the outcome: metrics and artifact, or the reason with its remedy."""
    report = [f"report: {_safe(result.report)}"] if result.report else []
    if result.outcome == "Complete":
        metrics = [f"  {name}: {value:.4f}" for name, value in result.metrics.items()]
        place = [f"artifact: {result.artifact.uri}"] if result.artifact else []
        return [f"Complete after {result.step} steps", *metrics, *place, *report]
    if result.outcome == "Interrupted":
        saved = f"; step {result.checkpoint.step} is saved" if result.checkpoint else ""
        return [f"Interrupted after {result.step} of {result.max_steps} steps{saved}. The same command continues."]
    failure = result.failure
    assert failure is not None, "internal: a failed run without a reason"
    return [f"Failed: {failure.reason.value}: {_safe(failure.message)}", f"  {_safe(failure.remedy)}", *report]


def evaluation_lines(found: Mapping[str, Any]) -> list[str]:
    """Return what an evaluation of an artifact found."""
    lines = [f"{found['rows']} rows judged for {found['task']}"]
    for name, value in found["metrics"].items():
        low, high = found["intervals"].get(name, (None, None))
        lines.append(f"  {name}: {value:.4f}" + (f" ({low:.4f} to {high:.4f})" if low is not None else ""))
    return [*lines, f"  {found['intervalsTold']}", f"predictions: {found['predictions']}", f"report: {found['report']}"]


def _safe(text: str) -> str:
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
