"""The pure parts of the cluster commands: names, targets, tables, news, explanations."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.validation import validate_manifest
from finetune_cli.cluster_detail import detail_lines
from finetune_cli.cluster_logs import node_of
from finetune_cli.cluster_news import news, result_of, whole_status
from finetune_cli.cluster_seen import Seen
from finetune_cli.cluster_submit import manifest_of
from finetune_cli.cluster_table import aligned, cells
from finetune_cli.cluster_target import UsageError, find_target
from finetune_cli.cluster_why import explain
from finetune_cli.cluster_words import duration, plain_name, told, when
from finetune_operator import errors
from support.jobs import NOON, after, condition, stamp
from support.manifests import GOOD


def job(**status: Any) -> dict[str, Any]:
    metadata = {"name": "a", "namespace": "ml", "uid": "u-1", "creationTimestamp": stamp(NOON)}
    return {"metadata": metadata, "spec": {**GOOD["spec"], "method": {"type": "lora"}}, "status": status}


def seen(document: dict[str, Any], **more: Any) -> Seen:
    return Seen(**{"job": document, "child": None, "pods": (), "events": (), "now": after(60)} | more)


def kubeconfig(folder: Path, name: str, current: str | None, **namespaces: str) -> str:
    contexts = [{"name": each, "context": {"namespace": inside}} for each, inside in namespaces.items()]
    path = folder / name
    path.write_text(yaml.safe_dump({"contexts": contexts} | ({"current-context": current} if current else {})))
    return str(path)


@pytest.mark.parametrize("text", ["a", "ftj/a", "finetunejob/a", "FineTuneJobs/a", "finetunejob.finetune.dev/a"])
def test_a_job_is_named_as_kubectl_prints_and_takes_names(text: str):
    assert plain_name(text) == "a"


@pytest.mark.parametrize("text", ["", "pod/a", "ftj/", "a/b/c"])
def test_a_name_of_another_kind_is_refused(text: str):
    with pytest.raises(UsageError, match="NAME: the name of a FineTuneJob"):
        plain_name(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119.9, "119s"), (120, "2m"), (150, "2m30s"), (660, "11m"), (10799, "179m"), (10800, "3h")]
    + [(11700, "3h15m"), (8 * 3600, "8h"), (47 * 3600, "47h"), (48 * 3600, "2d"), (7 * 86400 + 3600, "7d1h")]
    + [(9 * 86400 + 3600, "9d")],
)
def test_spans_of_time_are_written_as_kubectl_writes_ages(seconds: float, text: str):
    assert duration(seconds) == text


def test_a_time_to_come_is_told_as_one():
    assert when(stamp(after(300)), NOON) == f"{stamp(after(300))} (in 5m)"
    assert when(stamp(NOON), after(300)) == f"{stamp(NOON)} (5m ago)"
    assert when(None, NOON) == ""


def test_the_first_kubeconfig_that_says_something_wins(tmp_path: Path):
    first = kubeconfig(tmp_path, "first", None, one="n-one")
    second = kubeconfig(tmp_path, "second", "two", one="other", two="n-two")
    paths = f"{tmp_path / 'absent'}:{first}:{second}"

    assert find_target(paths, None, None).namespace == "n-two"
    assert find_target(paths, "one", None).namespace == "n-one"
    assert find_target(paths, "one", "mine").namespace == "mine"
    with pytest.raises(UsageError, match=r"one of one, two in .*, found three"):
        find_target(paths, "three", None)


@pytest.mark.parametrize("text", ["- a list", "{unbalanced"])
def test_a_kubeconfig_that_is_none_is_named(tmp_path: Path, text: str):
    path = tmp_path / "config"
    path.write_text(text)

    with pytest.raises(UsageError, match=r"kubeconfig, found .*\. Correct it\."):
        find_target(str(path), None, None)


def test_without_a_kubeconfig_the_remedy_is_to_name_one(tmp_path: Path):
    with pytest.raises(UsageError, match="Name one, or set KUBECONFIG"):
        find_target(str(tmp_path / "absent"), None, None)


# What kubectl 1.37 printed.
KUBECTL = """\
NAME      PHASE     PROGRESS        LOSS     ETA   REASON      RESTARTS   AGE
failed    Failed                                   DataError              2s
running   Running   120/300 (40%)   0.4215                     1          2s
"""


def test_a_table_has_the_padding_of_kubectls():
    rows = [
        ["NAME", "PHASE", "PROGRESS", "LOSS", "ETA", "REASON", "RESTARTS", "AGE"],
        ["failed", "Failed", "", "", "", "DataError", "", "2s"],
        ["running", "Running", "120/300 (40%)", "0.4215", "", "", "1", "2s"],
    ]

    assert "\n".join(aligned(rows, [])) + "\n" == KUBECTL


def test_later_rows_stand_under_earlier_ones():
    widths: list[int] = []
    list(aligned([["NAME", "AGE"], ["a-long-name", "2s"]], widths))

    assert list(aligned([["a", "3s"]], widths)) == ["a             3s"]


def test_a_cell_of_several_lines_or_of_control_characters_stays_one_line():
    columns = [{"name": "Name", "priority": 0}, {"name": "Model", "priority": 1}]
    table = {"rows": [{"cells": ["a\nb", "\x1b[31mred"], "object": {"metadata": {"namespace": "ml"}}}]}

    assert list(cells(table, columns, wide=False, namespaces=True)) == [["ml", "a..."]]
    assert list(cells(table, columns, wide=True, namespaces=False)) == [["a...", "\\x1b[31mred"]]


def test_ranks_are_found_on_their_nodes():
    document = job()
    document["spec"]["workers"] = {"nodes": 2, "resources": {"limits": {"nvidia.com/gpu": "4"}}, "newer": 1}

    assert [node_of(document, rank) for rank in (0, 3, 4, 7)] == [0, 0, 1, 1]
    with pytest.raises(UsageError, match="from 0 to 7, found 8"):
        node_of(document, 8)


def test_what_is_applied_is_what_the_manifest_says():
    read = validate_manifest({**GOOD, "metadata": {"name": "good", "namespace": "ml", "labels": {"a": "b"}}})

    assert manifest_of(read, None, "default") == {
        **GOOD,
        "metadata": {"name": "good", "namespace": "ml", "labels": {"a": "b"}},
    }
    assert manifest_of(validate_manifest(GOOD), None, "context")["metadata"]["namespace"] == "context"
    with pytest.raises(UsageError, match=r"metadata\.namespace, ml, or none, found other"):
        manifest_of(read, "other", "default")


def test_news_are_told_once_and_in_the_words_of_a_local_run():
    told_at = stamp(NOON)
    progress = {"step": 5, "maxSteps": 10, "percent": 50, "epoch": "0.5", "updatedAt": told_at, "eta": stamp(after(9))}
    before = {"phase": "Pending", "conditions": [condition("Running", "False", "Unschedulable")]}
    running = {"phase": "Running", "attempt": 1, "conditions": [condition("Running")]}
    reporting = running | {
        "progress": progress | {"loss": "0.5"},
        "checkpoint": {"step": 4},
        "resolved": {"a": "1 (b)"},
    }
    restarting = reporting | {"phase": "Restarting", "attempt": 2, "failure": {"reason": "NodeLost", "message": "gone"}}

    def kinds(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str]]:
        return [(each.kind, each.message) for each in news(old, new, told_at)]

    assert kinds({}, before) == [("phase", "Pending: Unschedulable")]
    assert kinds(before, running) == [("phase", "Running")]
    assert kinds(running, reporting) == [("decision", "a: 1 (b)"), ("progress", ""), ("checkpoint", "step 4 saved")]
    assert kinds(reporting, reporting) == []
    assert ("warning", "attempt 2 follows: NodeLost: gone") in kinds(reporting, restarting)
    (step,) = (each for each in news(running, reporting, told_at) if each.kind == "progress")
    assert (step.data["loss"], step.data["etaSeconds"], step.data["epoch"]) == (0.5, 9.0, 0.5)


def test_silence_is_told_once_as_a_warning():
    stale = {"phase": "Running", "conditions": [condition("Running"), condition("ProgressStale") | {"message": "m"}]}

    assert [each.message for each in news({}, stale, stamp(NOON)) if each.kind == "warning"] == ["m"]
    assert list(news(stale, stale, stamp(NOON))) == []


def test_the_status_of_a_newer_operator_is_understood():
    failure = {"reason": "DataError", "message": "m", "remedy": "r", "exitCode": 65, "retryable": False, "newer": 1}
    artifact = {"uri": "pvc://a/b", "digest": "d", "newer": 1}
    failed = {"conditions": [condition("Failed")], "failure": failure}
    complete = {"result": {"metrics": {"accuracy": "0.9"}, "artifact": artifact}, "checkpoint": {"step": 10}}

    assert result_of(failed).failure is not None
    assert whole_status(failed | {"newer": {"a": 1}}).failure is not None
    assert (result_of(complete).outcome, result_of(complete).metrics, result_of(complete).step) == (
        "Complete",
        {"accuracy": 0.9},
        10,
    )


def test_what_holds_a_job_is_explained_in_the_order_in_which_it_matters():
    finished = [condition("Failed"), condition("Running", "False", "DataError")]
    failure = {"reason": "DataError", "message": "row 7", "remedy": "mend it", "exitCode": 65, "retryable": False}
    failed = job(phase="Failed", conditions=finished, failure=failure)
    suspended = job(phase="Running", conditions=[condition("Running")])
    suspended["spec"]["suspend"] = True
    leaving = job(phase="Failed", conditions=finished, failure=failure)
    leaving["metadata"] |= {"deletionTimestamp": stamp(NOON), "finalizers": ["someone/else"]}

    assert explain(seen(failed)).to_dict() | {"evidence": None} == {
        "state": "Failed",
        "reason": "DataError",
        "message": "row 7",
        "evidence": None,
        "remedy": "mend it",
    }
    assert explain(seen(suspended)).reason == "Suspending"
    assert explain(seen(job())).reason == "NotSeen"
    assert explain(seen(job(), unread=("the Job: not allowed to read",))).reason == "Pending"
    assert "someone/else" in explain(seen(leaving)).message


def test_a_quota_is_told_from_the_jobs_events_before_the_operator_tells_it():
    event = {"reason": "FailedCreate", "type": "Warning", "message": "exceeded quota: none", "count": 3}
    event |= {"involvedObject": {"uid": "j", "kind": "Job", "name": "a-1"}, "lastTimestamp": stamp(after(30))}
    found = explain(seen(job(phase="Pending"), events=(event,)))

    assert (found.reason, found.message) == ("Refused", "exceeded quota: none")
    assert f"event FailedCreate about Job a-1, 3x, {stamp(after(30))} (30s ago): exceeded quota: none" in found.evidence


@given(st.text(max_size=200))
def test_nothing_that_a_job_says_can_write_to_the_terminal(text: str):
    failure = {"reason": "DataError", "message": text, "remedy": text, "exitCode": 65, "retryable": False}
    conditions = [condition("Failed") | {"message": text, "reason": text}]
    document = job(phase="Failed", conditions=conditions, failure=failure, resolved={text: text})
    document["spec"]["model"] = {"uri": text}
    shown = [*detail_lines(document, NOON), *explain(seen(document)).lines()]

    assert all(character.isprintable() for line in shown for character in line)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.NotFound("404 NotFound: it is not there", 404, "NotFound"), "Error from server (NotFound): it is not"),
        (errors.Unreachable("https://x: refused"), "Unable to connect to the server: https://x: refused. Check"),
        (errors.Unreachable("500 InternalError: broken", 500, "InternalError"), "Error from server (InternalError)"),
        (errors.Refused("403 Forbidden: no", 403, "Forbidden"), "Ask an administrator for the right"),
    ],
)
def test_errors_are_told_in_kubectls_words(error: errors.ClusterError, words: str):
    assert words in told(error)


def test_help_does_not_load_the_client():
    slow = ("kubernetes", "aiohttp", "finetune_operator.cluster", "rich.progress", "torch")
    code = f"import sys, finetune_cli.main; print([each for each in {slow!r} if each in sys.modules])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_an_age_never_runs_backwards():
    spans = [duration(timedelta(hours=hour).total_seconds()) for hour in range(3, 8)]

    assert spans == ["3h", "4h", "5h", "6h", "7h"]
