"""`finetune status`: what kubectl get shows of FineTuneJobs, or one job in full."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from finetune_api.names import API_VERSION, KIND
from finetune_cli.cluster_client import JSON, TABLE, UserCluster
from finetune_cli.cluster_detail import detail_lines
from finetune_cli.cluster_table import aligned, cells, headings
from finetune_cli.cluster_words import RESOURCE, outage_words
from finetune_operator.cluster import finetunejobs
from finetune_operator.observe import Object

StatusForm = Literal["text", "wide", "json", "yaml", "name"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is shown, and how."""

    namespace: str
    """Empty for every namespace."""
    name: str
    """Empty for every job."""
    form: StatusForm


async def show_status(cluster: UserCluster, wanted: Wanted) -> None:
    """Print jobs once."""
    if wanted.form in {"json", "yaml", "name"}:
        await _show_objects(cluster, wanted)
    elif wanted.name and wanted.form == "text":
        job = await cluster.get(finetunejobs(wanted.namespace, wanted.name))
        _print(detail_lines(job, cluster.now()))
    else:
        table = await cluster.table(finetunejobs(wanted.namespace, wanted.name))
        if not table["rows"]:
            where = f"in {wanted.namespace} namespace" if wanted.namespace else ""
            sys.stderr.write(f"No resources found {where}".rstrip() + ("." if where else "") + "\n")
            return
        rows = _rows(table, table["columnDefinitions"], wanted)
        _print(aligned([_head(table, wanted), *rows], []))


async def watch_status(cluster: UserCluster, wanted: Wanted) -> None:
    """Print jobs, and one more row or object for every change, until interrupted."""
    selectors = {"fieldSelector": f"metadata.name={wanted.name}"} if wanted.name else {}
    path = finetunejobs(wanted.namespace)
    if wanted.name:
        await cluster.get(finetunejobs(wanted.namespace, wanted.name))
    if wanted.form in {"text", "wide"}:
        await _watch_table(cluster, path, selectors, wanted)
        return
    shown: dict[str, str] = {}
    async for kind, body in cluster.changes(path, JSON, **selectors):
        if kind == "OUTAGE":
            sys.stderr.write(outage_words(body))
            continue
        for job in body["items"] if kind == "LIST" else [body]:
            if _is_news(job["metadata"], shown):
                _print([text_of(_typed(job), wanted.form)])


async def _watch_table(cluster: UserCluster, path: str, selectors: Mapping[str, str], wanted: Wanted) -> None:
    columns: Sequence[Object] = ()
    widths: list[int] = []
    shown: dict[str, str] = {}
    async for kind, body in cluster.changes(path, TABLE, **selectors):
        if kind == "OUTAGE":
            sys.stderr.write(outage_words(body))
            continue
        head = []
        if not columns:
            columns, head = body["columnDefinitions"], [_head(body, wanted)]
        fresh = [each for each in body["rows"] if _is_news(each["object"]["metadata"], shown)]
        if fresh:
            _print(aligned([*head, *_rows({"rows": fresh}, columns, wanted)], widths))
        elif head:
            columns = ()


async def _show_objects(cluster: UserCluster, wanted: Wanted) -> None:
    if wanted.name:
        job = await cluster.get(finetunejobs(wanted.namespace, wanted.name))
        _print([text_of(_without_managers(job), wanted.form)])
        return
    jobs: list[dict[str, Any]] = []
    async for page in cluster.pages(finetunejobs(wanted.namespace)):
        jobs += [_without_managers(_typed(each)) for each in page["items"]]
    if wanted.form == "name":
        _print(text_of(each, "name") for each in jobs)
    else:
        listed = {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": jobs}
        _print([text_of(listed, wanted.form)])


def _head(table: Object, wanted: Wanted) -> list[str]:
    return headings(table, wide=wanted.form == "wide", namespaces=not wanted.namespace)


def _rows(table: Object, columns: Sequence[Object], wanted: Wanted) -> list[list[str]]:
    return list(cells(table, columns, wide=wanted.form == "wide", namespaces=not wanted.namespace))


def _is_news(metadata: Object, shown: dict[str, str]) -> bool:
    """Tell whether this version was not shown yet, and remember it."""
    key, version = metadata["uid"], metadata["resourceVersion"]
    return shown.get(key) != version and shown.update({key: version}) is None


def _typed(job: Object) -> dict[str, Any]:
    """Return an item of a list with its kind, which the API server leaves out of lists."""
    return {"apiVersion": API_VERSION, "kind": KIND, **job}


def _without_managers(job: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {key: value for key, value in job["metadata"].items() if key != "managedFields"}
    return {**job, "metadata": metadata}


def text_of(value: Mapping[str, Any], form: StatusForm) -> str:
    """Return an object in a form for programs, as kubectl writes it."""
    if form == "name":
        return f"{RESOURCE}/{value['metadata']['name']}"
    if form == "yaml":
        return yaml.safe_dump(dict(value), sort_keys=True, allow_unicode=True, width=2**16).rstrip("\n")
    return json.dumps(value, indent=4, sort_keys=True, ensure_ascii=False)


def _print(lines: Any) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
