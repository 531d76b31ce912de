"""Ends of gangs as the API server shows them, and rules that hold for any end.

In `recorded-*` the Job and the pods' conditions come from a real control plane; only container statuses were written by
hand, as no kubelet ran. The others use the words of the kubelet's and the controllers' sources.
"""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.exit_codes import Disposition, Reason, disposition, exit_code, retryable
from finetune_api.result import Failure, Result
from finetune_api.status import FailureStatus
from finetune_operator.diagnose import (
    POD_FAILURE_RULES,
    diagnose,
    final_result,
    pod_failure_policy,
)
from finetune_operator.diagnose_text import MAX_TEXT, clean
from finetune_operator.observe import ContainerFacts, PodCondition, PodFacts, job_facts, pod_facts

CORPUS = sorted((Path(__file__).parent / "diagnose_corpus").glob("*.json"))
JOB = "sentiment-kx5zqwe7ab"


def diagnosed(situation: dict[str, Any]) -> Failure:
    pods = [pod_facts(each) for each in situation["pods"]]
    return diagnose(job_facts(situation["job"]), pods, situation.get("lastHeartbeat", ""))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_a_recorded_end_has_the_recorded_reason(path: Path):
    situation = json.loads(path.read_text())
    expected = situation["expected"]

    failure = diagnosed(situation)

    assert (failure.reason, failure.rank, failure.retryable) == (
        expected["reason"],
        expected["rank"],
        expected["retryable"],
    ), failure.message
    for text in expected["messageContains"]:
        assert text in failure.message
    assert expected.get("remedyContains", "") in failure.remedy
    assert failure.exit_code == expected.get("exitCode", failure.exit_code)
    assert failure.remedy
    assert len(failure.message) <= MAX_TEXT
    assert failure.message.isprintable()


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_the_reason_does_not_depend_on_the_order_of_the_pods(path: Path):
    situation = json.loads(path.read_text())

    for pods in itertools.permutations(situation["pods"]):
        assert diagnosed({**situation, "pods": pods}).reason == situation["expected"]["reason"]


def test_the_corpus_is_wide():
    reasons = {json.loads(path.read_text())["expected"]["reason"] for path in CORPUS}

    assert len(CORPUS) >= 45
    # The operator itself gives these, before any gang ran or after its last.
    elsewhere = {Reason.INVALID_SPEC, Reason.PENDING_DEADLINE_EXCEEDED, Reason.RESTART_LIMIT_EXCEEDED}
    assert reasons == {reason.value for reason in set(Reason) - elsewhere}


# --- the policy


def test_every_exit_code_of_ours_is_in_the_one_rule_of_its_class():
    about = {Disposition.USER_MUST_FIX: "user", Disposition.ADAPT_AND_RETRY: "adapt", Disposition.RETRY: "retry"}
    for reason in Reason:
        rules = [
            rule.about for rule in POD_FAILURE_RULES if rule.operator == "In" and exit_code(reason) in rule.exit_codes
        ]

        assert rules == [about.get(disposition(reason), "limit")]


def test_the_policy_keeps_the_bounds_of_the_api_server():
    rules = pod_failure_policy()["rules"]

    assert 0 < len(rules) <= 20
    for rule in rules:
        assert rule["action"] == "FailJob"
        codes = rule.get("onExitCodes", {}).get("values", [1])
        assert codes == sorted(set(codes))
        assert codes[0] > 0
        assert len(codes) <= 255


def test_the_disruption_rule_is_first_because_an_evicted_trainer_also_has_an_exit_code():
    first = pod_failure_policy()["rules"][0]

    assert first["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]


# With halves of characters, which JSON can carry.
ANY_TEXT = st.text(st.characters())


# --- the result of a gang that succeeded


def pod(index: int, trainer: ContainerFacts, phase: str) -> PodFacts:
    name = f"{JOB}-{index}-x7k2p"
    return PodFacts(name, f"uid-{index}", index, phase, "", "", "node-1", False, (), (trainer,), "16Gi")


def ended_trainer(message: str, code: int) -> ContainerFacts:
    return ContainerFacts("trainer", "terminated", "Error" if code else "Completed", message, code)


def succeeded(index: int, result: Result) -> PodFacts:
    return pod(index, ended_trainer(result.to_json(), 0), "Succeeded")


def test_the_result_is_the_one_of_index_0():
    first, second = (Result(outcome="Complete", step=step, metrics={"accuracy": 0.9}) for step in (10, 11))

    assert final_result([succeeded(1, second), succeeded(0, first)]) == first


def test_a_result_that_cannot_be_read_is_not_invented():
    unreadable = pod(0, ended_trainer("all done", 0), "Succeeded")
    failed = pod(0, ended_trainer(Result(outcome="Complete").to_json(), 1), "Failed")

    assert final_result([unreadable, failed]) is None
    assert final_result([succeeded(0, Result(outcome="Interrupted"))]) is None
    assert final_result([]) is None


# --- rules for any end

WORDS = st.sampled_from(
    ["", "Error", "OOMKilled", "StartError", "Unknown", "Evicted", "ContainerStatusUnknown", "DisruptionTarget"]
) | st.text(st.characters(), max_size=20)  # fmt: skip
CODES = st.none() | st.integers(-(2**31), 2**31 - 1) | st.sampled_from([0, 1, 65, 73, 75, 78, 79, 137, 143, 255])
TOLD = st.builds(
    lambda reason, message, rank: Result(outcome="Failed", failure=Failure.of(reason, message, rank=rank)).to_json(),
    st.sampled_from(list(Reason)),
    ANY_TEXT,
    st.none() | st.integers(0, 2**31),
)
CONTAINERS = st.builds(
    ContainerFacts,
    st.sampled_from(["trainer", "fetch-model", "sidecar"]),
    st.sampled_from(["", "waiting", "running", "terminated"]),
    WORDS,
    ANY_TEXT | TOLD,
    CODES,
)
CONDITIONS = st.builds(
    PodCondition,
    st.sampled_from(["DisruptionTarget", "PodScheduled", "Ready"]),
    st.sampled_from(["True", "False", "Unknown"]),
    WORDS,
    ANY_TEXT,
)
PODS = st.builds(
    PodFacts,
    st.text(max_size=300),
    st.just("uid"),
    st.integers(0, 100),
    st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
    WORDS,
    ANY_TEXT,
    st.text(max_size=300),
    st.booleans(),
    st.lists(CONDITIONS, max_size=2).map(tuple),
    st.lists(CONTAINERS, max_size=3).map(tuple),
    st.sampled_from(["", "16Gi"]),
)
MESSAGES = ANY_TEXT | st.builds(
    "Container trainer for pod ml/{} failed with exit code {} matching FailJob rule at index {}".format,
    st.text(max_size=30),
    CODES,
    st.integers(-1, 10**6),
)


def ended(reason: str = "PodFailurePolicy", message: str = "") -> dict[str, Any]:
    conditions = [{"type": "Failed", "status": "True", "reason": reason, "message": message}]
    created = "2026-01-05T10:00:00Z"
    metadata = {"name": JOB, "namespace": "ml", "uid": "u", "resourceVersion": "1", "creationTimestamp": created}
    return {"metadata": metadata, "spec": {"completions": 1}, "status": {"conditions": conditions}}


@given(
    st.sampled_from(["PodFailurePolicy", "BackoffLimitExceeded", "DeadlineExceeded"]),
    MESSAGES,
    st.lists(PODS, max_size=3),
    st.text(max_size=100),
)
def test_any_end_has_one_reason_of_the_list_and_a_bounded_printable_message(
    reason: str, message: str, pods: list[PodFacts], heartbeat: str
):
    failure = diagnose(job_facts(ended(reason, message)), pods, heartbeat)

    assert failure.reason in Reason
    assert failure.retryable is retryable(failure.reason)
    assert 0 < len(failure.message) <= MAX_TEXT
    assert 0 < len(failure.remedy) <= MAX_TEXT
    assert failure.message.isprintable()
    assert failure.remedy.isprintable()
    FailureStatus.model_validate(failure.to_dict() | {"reason": failure.reason})


@given(st.integers(1, 255))
def test_an_exit_code_leads_to_the_same_reason_with_and_without_its_pod(code: int):
    message = (
        f"Container trainer for pod ml/{JOB}-0-x7k2p failed with exit code {code} matching FailJob rule at index 3"
    )
    job = job_facts(ended(message=message))
    seen = diagnose(job, [pod(0, ended_trainer("", code), "Failed")])
    gone = diagnose(job, [])

    assert (seen.reason, seen.rank, seen.exit_code) == (gone.reason, gone.rank, gone.exit_code)
    assert seen.exit_code == code


@given(ANY_TEXT, st.integers(0, 60), st.booleans())
def test_cleaned_text_is_printable_and_within_its_limit(text: str, limit: int, keep_end: bool):
    shown = clean(text, limit, keep_end=keep_end)

    assert shown.isprintable()
    assert len(shown) <= limit


def test_printable_text_of_any_script_is_left_as_it_is():
    assert (
        clean("r\u00e9sum\u00e9 \u4e2d\u6587 \U0001f600 50\u00a0%") == "r\u00e9sum\u00e9 \u4e2d\u6587 \U0001f600 50 %"
    )


def test_diagnosing_needs_neither_kopf_nor_the_api_client():
    check = (
        "import sys, finetune_operator.diagnose\n"
        "print([m for m in ('kopf', 'kubernetes', 'aiohttp', 'torch') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
