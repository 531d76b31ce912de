"""The `finetune` command, also `kubectl finetune`.

Exit codes: 0 Complete, 1 Failed, 2 invalid manifest, 130 interrupted.
"""

import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from finetune_api.exit_codes import Reason, reason_of
from finetune_api.names import SWEEP_KIND
from finetune_api.progress import ProgressEvent
from finetune_api.result import Failure, Result
from finetune_api.spec import FineTuneJob
from finetune_api.sweep_space import validate_sweep
from finetune_api.validation import InvalidSpec, validate_manifest
from finetune_cli import cluster_commands
from finetune_cli.display import OutputForm, evaluation_lines, make_display, outcome_lines
from finetune_cli.manifest import load, load_job
from finetune_cli.resolve import Run, resolve

EXIT_FAILED, EXIT_INVALID, EXIT_INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="finetune",
    help="Fine-tune a pretrained model from one manifest.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
File = Annotated[Path, typer.Argument(metavar="FILE", help="The manifest, YAML or JSON.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a field below spec.")]
Workdir = Annotated[Path | None, typer.Option(help="Work folder; .finetune/NAME beside the manifest by default.")]
Output = Annotated[OutputForm, typer.Option("--output", "-o", help="text, json (the status at the end) or jsonl.")]


@app.command()
def validate(file: File, sets: Sets = None) -> None:
    """Check a job or a sweep against the contract; what only a cluster can do is told and is no error."""
    with _refusing(file):
        manifest = load(file, sets or [])
        if manifest.get("kind") == SWEEP_KIND:
            typer.echo(f"{validate_sweep(manifest).metadata.name}: valid")
            return
        job = validate_manifest(manifest)
    typer.echo(f"{job.metadata.name}: valid")
    try:
        resolve(job, file, None)
    except InvalidSpec as error:
        typer.echo("It does not run on this machine:")
        for problem in error.problems:
            typer.echo(f"  {problem}")


@app.command()
def plan(file: File, sets: Sets = None, workdir: Workdir = None, output: Output = "text") -> None:
    """Show resolved settings with reasons, parameter counts and a memory estimate."""
    from finetune_cli import inspection  # noqa: PLC0415

    found = _inspect(file, sets, workdir, "plan")
    _emit_json(found) if output != "text" else inspection.show_plan(found)


@app.command()
def data(file: File, sets: Sets = None, workdir: Workdir = None, output: Output = "text") -> None:
    """Show samples as the model will see them, lengths, and refused rows."""
    from finetune_cli import inspection  # noqa: PLC0415

    found = _inspect(file, sets, workdir, "data")
    _emit_json(found) if output != "text" else inspection.show_data(found)


@app.command()
def run(file: File, workdir: Workdir = None, sets: Sets = None, output: Output = "text") -> None:
    """Train on this machine. Ctrl-C saves a checkpoint, and the same command continues."""
    from finetune_cli.claim import WorkFolderBusy  # noqa: PLC0415
    from finetune_cli.follow import Follower  # noqa: PLC0415
    from finetune_cli.status import StatusBuilder  # noqa: PLC0415

    _, local = _load(file, sets, workdir)
    display = make_display(output)
    builder = StatusBuilder(datetime.now(UTC))
    result = local.finished_before()
    if result is None:

        def show(event: ProgressEvent) -> None:
            builder.add(event)
            display.event(event)

        follower = Follower(local, show)
        try:
            result, code = follower.go()
        except WorkFolderBusy as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(EXIT_FAILED) from None
        if result is None:
            result = _without_result(code, follower.log_tail())
    display.end(result, builder.status(result, datetime.now(UTC)))
    raise typer.Exit({"Complete": 0, "Failed": EXIT_FAILED, "Interrupted": EXIT_INTERRUPTED}[result.outcome])


@app.command()
def sweep(file: File, workdir: Workdir = None, sets: Sets = None, output: Output = "text") -> None:
    """Search for the best trial of a FineTuneSweep. Ctrl-C saves, and the same command continues."""
    from finetune_cli.claim import WorkFolderBusy  # noqa: PLC0415
    from finetune_cli.sweep import command  # noqa: PLC0415

    try:
        with _refusing(file):
            phase = command.sweep(file, workdir, sets or [], output)
    except WorkFolderBusy as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_FAILED) from None
    raise typer.Exit({"Complete": 0, "Failed": EXIT_FAILED, "Interrupted": EXIT_INTERRUPTED}[phase])


@app.command()
def predict(
    artifact: Annotated[Path, typer.Option(help="The artifact's folder.")],
    rows: Annotated[Path, typer.Option("--input", help="Rows as the task reads them, labels not needed.")],
    output: Annotated[Path | None, typer.Option(help="A .jsonl or .parquet file; standard output when absent.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows that are in memory at once.")] = 1024,
    base: Annotated[str | None, typer.Option(help="Where an adapter's base model is, when it was moved.")] = None,
) -> None:
    """Answer the rows of a file by a trained model; each comes back with its answer as `prediction`."""
    from finetune_cli import asking  # noqa: PLC0415

    failure = asking.predict(asking.Question(artifact, rows, output, batch_size, base))
    if failure is not None:
        _fail(failure)


@app.command("eval")
def evaluate(  # noqa: PLR0913, PLR0917 - options of a command
    artifact: Annotated[Path, typer.Option(help="The artifact's folder.")],
    rows: Annotated[Path, typer.Option("--data", help="Rows as for training, with what is to be found.")],
    metrics: Annotated[list[str] | None, typer.Option("--metric", help="A metric to tell; all when absent.")] = None,
    folder: Annotated[Path, typer.Option(help="Where predictions.parquet and report.html go.")] = Path("evaluation"),
    base: Annotated[str | None, typer.Option(help="Where an adapter's base model is, when it was moved.")] = None,
    output: Annotated[Literal["text", "json"], typer.Option("--output", "-o", help="text or json.")] = "text",
) -> None:
    """Judge a trained model by other rows: metrics with 95 % intervals, what it says of each row, and a report."""
    from finetune_cli import asking  # noqa: PLC0415

    found = asking.evaluate(asking.Trial(artifact, rows, metrics or [], folder, base))
    if isinstance(found, Failure):
        _fail(found)
    elif output == "json":
        _emit_json(found)
    else:
        for line in evaluation_lines(found):
            typer.echo(line)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def operator(context: typer.Context) -> None:
    """Run the operator against a cluster, as its image does; --help lists its flags."""
    os.execv(sys.executable, [sys.executable, "-m", "finetune_operator", *context.args])  # noqa: S606 - our own module


cluster_commands.register(app)


def _load(file: Path, sets: list[str] | None, workdir: Path | None) -> tuple[FineTuneJob, Run]:
    with _refusing(file):
        job = load_job(file, sets or [])
        return job, resolve(job, file, workdir)


@contextmanager
def _refusing(file: Path) -> Generator[None]:
    """Print every problem of an invalid manifest, and leave."""
    try:
        yield
    except InvalidSpec as error:
        typer.echo(f"{file}: {len(error.problems)} problem{'s' * (len(error.problems) > 1)}", err=True)
        for problem in error.problems:
            typer.echo(f"  {problem}", err=True)
        raise typer.Exit(EXIT_INVALID) from None


def _inspect(file: Path, sets: list[str] | None, workdir: Path | None, verb: str) -> dict[str, object]:
    from finetune_cli import inspection  # noqa: PLC0415

    _, local = _load(file, sets, workdir)
    found = dict(inspection.inspect(replace(local, work=inspection.scratch(local.work)), verb))
    failure = found.get("failure")
    if failure is not None:
        _fail(Failure.model_validate(failure))
    return found


def _fail(failure: Failure) -> NoReturn:
    for line in outcome_lines(Result(outcome="Failed", failure=failure)):
        typer.echo(line, err=True)
    raise typer.Exit(EXIT_FAILED)


def _without_result(code: int, log: str) -> Result:
    if code < 0:
        return Result(outcome="Interrupted")
    reason = reason_of(code) or Reason.UNKNOWN
    return Result(outcome="Failed", failure=Failure.of(reason, f"the trainer left no result; its log ends: {log}"))


def _emit_json(document: object) -> None:
    typer.echo(json.dumps(document))


def main() -> None:
    """Run the command."""
    app(prog_name=Path(sys.argv[0]).name)


if __name__ == "__main__":
    main()
