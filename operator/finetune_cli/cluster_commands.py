"""The commands that talk to a cluster: `status`, `logs`, `why`, `suspend`, `resume`, `submit`.

Options, words and exit codes are kubectl's where it has some: 0 done, 1 refused by the cluster or not possible, 2 for a
command line or manifest that is wrong, 130 interrupted. The client is imported by the commands alone, so that
`finetune --help` stays fast.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from finetune_api.validation import InvalidSpec
from finetune_cli.cluster_target import Target, UsageError, find_target
from finetune_cli.display import OutputForm

if TYPE_CHECKING:
    from finetune_api.spec import FineTuneJob
    from finetune_cli.cluster_client import UserCluster

EXIT_REFUSED, EXIT_INVALID, EXIT_INTERRUPTED = 1, 2, 130
Answer = TypeVar("Answer")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The FineTuneJob, also as ftj/NAME.")]
Some = Annotated[str | None, typer.Argument(metavar="[NAME]", help="One job in full; every job when absent.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The manifest, YAML or JSON.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a field below spec.")]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace; the context's by default.")]
Everywhere = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Every namespace.")]
Context = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig; the current by default.")]
Kubeconfig = Annotated[
    str | None,
    typer.Option("--kubeconfig", envvar="KUBECONFIG", help="Kubeconfig; ~/.kube/config by default."),
]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Show every change too, until interrupted.")]
StatusOutput = Annotated[
    Literal["text", "wide", "json", "yaml", "name"],
    typer.Option("--output", "-o", help="text, wide, json, yaml or name."),
]
WhyOutput = Annotated[Literal["text", "json", "yaml"], typer.Option("--output", "-o", help="text, json or yaml.")]
SubmitOutput = Annotated[
    OutputForm, typer.Option("--output", "-o", help="text, json (the status as the last line) or jsonl.")
]
Rank = Annotated[int, typer.Option(help="Which process's pod; its failure names the one that failed.")]
Previous = Annotated[bool, typer.Option("--previous", "-p", help="Of the attempt before, while its pods exist.")]
Stream = Annotated[bool, typer.Option("--follow", "-f", help="Wait for a trainer to start, and go on as it writes.")]
Wait = Annotated[bool, typer.Option("--wait", help="Follow the job until it is finished.")]
Timeout = Annotated[str | None, typer.Option(metavar="PERIOD", help="With --wait: give up after 90s, 5m or 2h.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (submit, status, logs, why, suspend, resume):
        app.command()(command)


def status(  # noqa: PLR0913 - one parameter per option
    name: Some = None,
    *,
    namespace: Namespace = None,
    everywhere: Everywhere = False,
    output: StatusOutput = "text",
    watch: Watch = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show jobs on a cluster: one line each as kubectl get, or one of them in full."""

    async def show(cluster: "UserCluster", target: Target) -> None:
        from finetune_cli.cluster_status import Wanted, show_status, watch_status  # noqa: PLC0415
        from finetune_cli.cluster_words import plain_name  # noqa: PLC0415

        if name and everywhere:
            raise UsageError("--all-namespaces: without NAME, found both. Give --namespace, or no name.")
        wanted = Wanted("" if everywhere else target.namespace, plain_name(name) if name else "", output)
        await (watch_status if watch else show_status)(cluster, wanted)

    _ask(find_or_exit(kubeconfig, context, namespace), show)


def logs(  # noqa: PLR0913
    name: Name,
    *,
    rank: Rank = 0,
    previous: Previous = False,
    follow: Stream = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show what a job's trainer writes, of rank 0 by default."""

    async def show(cluster: "UserCluster", target: Target) -> None:
        from finetune_cli.cluster_logs import Wanted, show_log  # noqa: PLC0415
        from finetune_cli.cluster_words import plain_name  # noqa: PLC0415

        await show_log(cluster, target.namespace, Wanted(plain_name(name), rank, previous, follow))

    _ask(find_or_exit(kubeconfig, context, namespace), show)


def why(
    name: Name,
    namespace: Namespace = None,
    output: WhyOutput = "text",
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Explain the state of a job: reason, evidence, remedy."""

    async def show(cluster: "UserCluster", target: Target) -> None:
        from finetune_cli.cluster_look import look  # noqa: PLC0415
        from finetune_cli.cluster_status import text_of  # noqa: PLC0415
        from finetune_cli.cluster_why import explain  # noqa: PLC0415
        from finetune_cli.cluster_words import plain_name  # noqa: PLC0415

        found = explain(await look(cluster, target.namespace, plain_name(name)))
        typer.echo("\n".join(found.lines()) if output == "text" else text_of(found.to_dict(), output))

    _ask(find_or_exit(kubeconfig, context, namespace), show)


def suspend(name: Name, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None) -> None:
    """Stop a job after a checkpoint and free its machines; `resume` goes on."""
    _set_suspend(name, find_or_exit(kubeconfig, context, namespace), to=True)


def resume(name: Name, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None) -> None:
    """Go on with a suspended job from its checkpoint."""
    _set_suspend(name, find_or_exit(kubeconfig, context, namespace), to=False)


def submit(  # noqa: PLR0913
    file: File,
    *,
    sets: Sets = None,
    wait: Wait = False,
    timeout: Timeout = None,
    namespace: Namespace = None,
    output: SubmitOutput = "text",
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Check a manifest and apply it server-side; with --wait follow the job as `run` does.

    Ctrl-C leaves the job running. Exit codes are those of `run`.
    """
    from finetune_cli.cluster_submit import Submission, load_for_cluster  # noqa: PLC0415

    try:
        job: FineTuneJob = load_for_cluster(file, sets or [])
        submission = Submission(job, namespace, output, _seconds(timeout) if wait else None)
    except InvalidSpec as error:
        typer.echo(f"{file}: {len(error.problems)} problem{'s' * (len(error.problems) > 1)}", err=True)
        for problem in error.problems:
            typer.echo(f"  {problem}", err=True)
        raise typer.Exit(EXIT_INVALID) from None
    except UsageError as error:
        raise _exit(f"error: {error}", EXIT_INVALID) from None
    target = find_or_exit(kubeconfig, context, namespace)
    try:
        code = _ask(target, submission.follow if wait else submission.hand_over)
    except typer.Exit as ended:
        if ended.exit_code == EXIT_INTERRUPTED and wait:
            submission.leave()
        raise
    raise typer.Exit(code)


def find_or_exit(kubeconfig: str | None, context: str | None, namespace: str | None) -> Target:
    """Return where the command goes, or end it with what is wrong with that."""
    try:
        return find_target(kubeconfig, context, namespace)
    except UsageError as error:
        raise _exit(f"error: {error}", EXIT_REFUSED) from None


def _set_suspend(name: str, target: Target, *, to: bool) -> None:
    async def change(cluster: "UserCluster", where: Target) -> None:
        from finetune_cli.cluster_suspend import set_suspend  # noqa: PLC0415
        from finetune_cli.cluster_words import plain_name  # noqa: PLC0415

        for line in await set_suspend(cluster, where.namespace, plain_name(name), to=to):
            typer.echo(line)

    _ask(target, change)


def _ask(target: Target, ask: Callable[["UserCluster", Target], Awaitable[Answer]]) -> Answer:
    """Connect, ask, and turn what goes wrong into kubectl's words and exit codes."""
    from finetune_cli.cluster_client import UserCluster  # noqa: PLC0415
    from finetune_cli.cluster_words import told  # noqa: PLC0415
    from finetune_operator.errors import ClusterError  # noqa: PLC0415

    async def connected() -> Answer:
        async with UserCluster.connect(target) as cluster:
            return await ask(cluster, target)

    try:
        return asyncio.run(connected())
    except UsageError as error:
        raise _exit(f"error: {error}", EXIT_REFUSED) from None
    except ClusterError as error:
        raise _exit(told(error), EXIT_INVALID if error.reason == "Invalid" else EXIT_REFUSED) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read the output has enough; closing it again at exit must not complain.
        sys.stderr.close()
        raise typer.Exit(EXIT_REFUSED) from None


def _seconds(period: str | None) -> float | None:
    from finetune_api.period import InvalidPeriod, parse_period  # noqa: PLC0415

    if period is None:
        return None
    try:
        seconds = parse_period(period).seconds
    except InvalidPeriod:
        seconds = None
    if seconds is None:
        raise UsageError(f"--timeout: a time such as 90s, 5m or 2h, found {period!r}. Correct it.")
    return float(seconds)


def _exit(message: str, code: int) -> typer.Exit:
    typer.echo(message, err=True)
    return typer.Exit(code)
