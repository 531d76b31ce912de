"""Hand a manifest to a cluster, and follow the job with the display that a run on this machine has."""

import asyncio
import json
import sys
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune_api.names import API_VERSION, KIND
from finetune_api.result import Result
from finetune_api.spec import FineTuneJob
from finetune_api.validation import InvalidSpec
from finetune_cli.cluster_client import UserCluster
from finetune_cli.cluster_news import news, result_of, whole_status
from finetune_cli.cluster_target import Target, UsageError
from finetune_cli.cluster_words import RESOURCE, holds, outage_words, status_of
from finetune_cli.display import Display, OutputForm, TerminalDisplay, make_display, outcome_lines
from finetune_cli.manifest import load_job
from finetune_operator.cluster import finetunejobs
from finetune_operator.observe import Object
from finetune_operator.plan import unsupported
from finetune_operator.status import rfc3339


class _Bar(TerminalDisplay):
    """A progress bar that can be left before the end."""

    def leave(self) -> None:
        """Give the terminal back."""
        self._progress.stop()


class Submission:
    """A manifest on its way, and what the command does with it."""

    def __init__(self, job: FineTuneJob, namespace: str | None, form: OutputForm, limit_s: float | None) -> None:
        """Remember what is applied.

        Args:
            job: The job as it was read.
            namespace: Of the command line, None for none.
            form: How it is shown.
            limit_s: How long it is followed; None for as long as it takes.
        """
        self._job = job
        self._namespace = namespace
        self._form: OutputForm = form
        self._limit_s = limit_s
        self._follow: Follow | None = None

    async def hand_over(self, cluster: UserCluster, target: Target) -> int:
        """Apply the manifest and say how to go on; return the exit code."""
        stored = await self._apply(cluster, target)
        if self._form != "text":
            sys.stdout.write(json.dumps(stored) + "\n")
        return 0

    async def follow(self, cluster: UserCluster, target: Target) -> int:
        """Apply the manifest and show the job until it is finished; return the exit code."""
        stored = await self._apply(cluster, target)
        metadata = stored["metadata"]
        self._follow = Follow(metadata["name"], self._form)
        try:
            async with asyncio.timeout(self._limit_s):
                complete = await self._follow.until_finished(cluster, metadata["namespace"], metadata["uid"])
        except TimeoutError:
            self._follow.leave(f"error: timed out waiting for {RESOURCE}/{metadata['name']}. {self._goes_on()}")
            return 1
        return 0 if complete else 1

    def leave(self) -> None:
        """Say what becomes of a job that is not followed any more."""
        if self._follow is not None:
            self._follow.leave(self._goes_on())

    async def _apply(self, cluster: UserCluster, target: Target) -> Object:
        manifest = manifest_of(self._job, self._namespace, target.namespace)
        name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
        stored = await cluster.apply(namespace, name, manifest)
        if self._form == "text":
            sys.stdout.write(f"{RESOURCE}/{name} serverside-applied\n")
            sys.stdout.flush()
        return stored

    def _goes_on(self) -> str:
        name = self._job.metadata.name
        return (
            f"{name} goes on on the cluster. Follow it: finetune status {name} --watch; "
            f"stop it: finetune suspend {name}"
        )


class Follow:
    """One job, shown until it is finished or nobody looks any more."""

    def __init__(self, name: str, form: OutputForm) -> None:
        """Show nothing yet."""
        self._name = name
        self._form: OutputForm = form
        self._display: Display = _Bar() if form == "text" and sys.stdout.isatty() else make_display(form)
        self._status: Object = {}

    async def until_finished(self, cluster: UserCluster, namespace: str, uid: str) -> bool:
        """Show a job until it is finished; return whether it is Complete.

        Args:
            cluster: The connection.
            namespace: Of the job.
            uid: Of the job; another one of the same name is not it.

        Returns:
            Whether it is Complete; False for Failed.

        Raises:
            UsageError: It was deleted.
        """  # noqa: DOC503
        selector = f"metadata.name={self._name}"
        async with aclosing(cluster.changes(finetunejobs(namespace), fieldSelector=selector)) as changes:
            async for kind, body in changes:
                if kind == "OUTAGE":
                    sys.stderr.write(outage_words(body))
                    continue
                found = body["items"] if kind == "LIST" else [body]
                job = next((each for each in found if each["metadata"]["uid"] == uid), None)
                if job is None or kind == "DELETED":
                    raise UsageError(f"{self._name}: a job that exists until its end, found that it was deleted.")
                self._show(status_of(job))
                if holds(job, "Finished"):
                    return self._end(result_of(self._status))
        raise AssertionError("internal: a watch never ends by itself")

    def _end(self, result: Result) -> bool:
        if self._form != "text":
            self._display.end(result, whole_status(self._status))
            return result.outcome == "Complete"
        self._free_terminal()
        first, *more = outcome_lines(result)
        # The status does not tell after how many steps.
        for line in ("Complete" if result.outcome == "Complete" else first, *more):
            sys.stdout.write(f"{line}\n")
        return result.outcome == "Complete"

    def leave(self, words: str) -> None:
        """Stop showing a job that goes on; for programs the last line is its status all the same."""
        self._free_terminal()
        if self._form != "text":
            sys.stdout.write(whole_status(self._status).model_dump_json(by_alias=True, exclude_none=True) + "\n")
        sys.stderr.write(words + "\n")

    def _free_terminal(self) -> None:
        if isinstance(self._display, _Bar):
            self._display.leave()

    def _show(self, status: Object) -> None:
        for event in news(self._status, status, rfc3339(datetime.now(UTC))):
            self._display.event(event)
        self._status = status


def load_for_cluster(file: Path, sets: list[str]) -> FineTuneJob:
    """Read a manifest and check it as `validate` does, and for what a cluster cannot do; InvalidSpec names it all."""
    job = load_job(file, sets)
    problems = unsupported(job)
    if problems:
        raise InvalidSpec(problems)
    return job


def manifest_of(job: FineTuneJob, given: str | None, default: str) -> dict[str, Any]:
    """Return what is applied: the fields that the manifest has, so that it owns no default.

    Args:
        job: The job as it was read.
        given: Namespace of the command line, None for none.
        default: Namespace for a manifest that names none.

    Returns:
        The object, with its namespace.

    Raises:
        UsageError: The manifest is for another namespace than the command line.
    """
    written = job.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    metadata = written["metadata"]
    own = metadata.get("namespace")
    if given and own and given != own:
        rule = f"the manifest's metadata.namespace, {own}, or none"
        raise UsageError(f"--namespace: {rule}, found {given}. Give one of the two.")
    kept = {key: metadata[key] for key in ("name", "labels", "annotations") if metadata.get(key)}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {**kept, "namespace": given or own or default},
        "spec": written["spec"],
    }
