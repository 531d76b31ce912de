import json
import random
import re
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api import names
from finetune_api.run_config import RunConfig, text_digest
from finetune_operator.observe import job_facts
from finetune_operator.plan import Attempt, job_label, plan, spec_hash
from finetune_operator.settings import Settings
from golden.cases import (
    CASES,
    FIRST,
    SETTINGS,
    children,
    config_of,
    job_of,
    named,
    plan_of,
    pod_of,
    smallest,
    trainer_of,
)

LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
PART = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
JOB_NAMES = st.lists(PART, min_size=1, max_size=8).map(lambda parts: ".".join(parts)[:253].rstrip("-."))


@settings(max_examples=300)
@given(JOB_NAMES, st.uuids(), st.integers(1, 1000))
def test_every_legal_name_gives_valid_names_and_labels(name: str, uid: uuid.UUID, attempt: int):
    planned = plan(named(name, str(uid), nodes=512), Attempt(attempt), SETTINGS)
    assert planned.service is not None
    assert planned.claim is not None

    assert DNS_LABEL.fullmatch(f"{planned.job['metadata']['name']}-511")
    assert SERVICE_NAME.fullmatch(planned.service["metadata"]["name"])
    assert DNS_LABEL.fullmatch(planned.claim["metadata"]["name"])
    template = planned.job["spec"]["template"]
    for metadata in (template["metadata"], *(each["metadata"] for each in children(planned))):
        assert all(LABEL_VALUE.fullmatch(value) for value in metadata["labels"].values())
    assert template["spec"]["subdomain"] == planned.service["metadata"]["name"]


def test_a_hundred_thousand_jobs_with_the_same_head_have_a_hundred_thousand_children():
    rng = random.Random(7)
    head = "a" * 60
    uids = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(33_334)]
    made = {names.job_name(f"{head}{index}", uid, attempt) for index, uid in enumerate(uids) for attempt in range(3)}

    assert len(made) == 3 * len(uids)


@given(JOB_NAMES, JOB_NAMES)
def test_two_names_have_two_labels(first: str, second: str):
    assert (job_label(first) == job_label(second)) == (first == second)


def test_long_names_that_differ_at_their_end_have_two_labels():
    assert job_label("a" * 252 + "b") != job_label("a" * 252 + "c")


def test_a_recreated_job_has_other_children_and_a_restart_keeps_the_claim():
    uid = "6f1c1f52-55b0-4b1f-9a35-3a2a58cf9d01"
    first, second = (plan(named("x", uid), Attempt(number), SETTINGS) for number in (1, 2))
    other = plan(named("x", uid.replace("6", "7")), FIRST, SETTINGS)

    assert first.claim == second.claim
    assert len({each.job["metadata"]["name"] for each in (first, second, other)}) == 3
    assert other.claim["metadata"]["name"] != first.claim["metadata"]["name"]
    assert first.claim["metadata"]["name"] not in {first.job["metadata"]["name"], second.job["metadata"]["name"]}


@pytest.mark.parametrize("case", CASES)
def test_every_child_belongs_to_the_job_and_goes_with_it(case: str):
    job = job_of(case)

    for child in children(plan_of(case)):
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("FineTuneJob", job.metadata.uid)
        assert owner["controller"] is True
        assert owner["blockOwnerDeletion"] is True


def test_the_operator_reads_back_what_it_planned():
    planned = plan(smallest(), Attempt(3), SETTINGS).job
    stored = {"creationTimestamp": "2026-01-01T00:00:00Z", "uid": "u", "resourceVersion": "1"}

    facts = job_facts(planned | {"metadata": planned["metadata"] | stored})

    assert facts.attempt == 3
    assert facts.owner_uid == smallest().metadata.uid
    assert facts.spec_hash == spec_hash(smallest())
    assert facts.suspended is False


@pytest.mark.parametrize("case", CASES)
def test_the_same_input_gives_the_same_objects(case: str):
    assert json.dumps(children(plan_of(case))) == json.dumps(children(plan_of(case)))


@pytest.mark.parametrize(
    "change",
    [
        {"suspend": True},
        {"activeDeadlineSeconds": 5},
        {"pendingDeadlineSeconds": 50},
        {"ttlSecondsAfterFinished": 5},
        {"restarts": {"limit": 9}},
        {"method": {"type": "lora"}},
        {"workers": {}},
    ],
)
def test_what_may_change_while_it_runs_and_defaults_that_are_written_out_keep_the_hash(change: dict[str, Any]):
    assert spec_hash(smallest(**change)) == spec_hash(smallest())


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"seed": 1}},
        {"data": {"train": {"uri": "pvc://other/train.jsonl"}}},
        {"workers": {"nodes": 2}},
        {"pod": {"image": "other"}},
        {"output": {"uri": "pvc://models/other"}},
        {"storage": {"size": "1Gi"}},
        {"scheduling": {"queue": "q"}},
        {"secrets": {"s3": {"name": "s"}}},
    ],
)
def test_what_shapes_the_children_changes_the_hash(change: dict[str, Any]):
    assert spec_hash(smallest(**change)) != spec_hash(smallest())


@pytest.mark.parametrize("case", CASES)
def test_the_trainer_can_check_its_configuration_by_its_digest(case: str):
    template = plan_of(case).job["spec"]["template"]
    text = template["metadata"]["annotations"][names.ANNOTATION_RUN_CONFIG]
    (trainer,) = template["spec"]["containers"]

    assert trainer["args"][-2:] == ["--sha256", text_digest(text)]
    assert RunConfig.from_json(text).to_json() == text


def test_an_edit_that_is_allowed_while_it_runs_leaves_the_configuration_as_it_is():
    edited = smallest(suspend=True, activeDeadlineSeconds=5, ttlSecondsAfterFinished=5, restarts={"limit": 1})

    assert config_of(edited) == config_of(smallest())


def test_the_longest_overrides_of_the_pod_do_not_travel_in_the_configuration():
    env = [{"name": f"X{number}", "value": "x" * 8192} for number in range(64)]

    assert len(config_of(smallest(pod={"env": env})).to_json()) < 16_000


def test_every_claim_is_where_the_configuration_says():
    job = job_of("claim-name")
    config, mounts = config_of(job), trainer_of(job)["volumeMounts"]

    places = {each["mountPath"] for each in mounts}
    assert set(config.claims) == {"team-disk", "held-out"}
    assert set(config.claims.values()) <= places
    assert config.paths.output == f"{config.claims['team-disk']}/results/masked"
    assert config.paths.work in places


def test_a_gang_meets_at_its_first_node():
    job = job_of("gang")
    config, planned = config_of(job), plan(job, FIRST, SETTINGS)
    assert planned.service is not None

    assert (config.nodes, config.processes) == (2, 8)
    assert config.rendezvous == f"{planned.job['metadata']['name']}-0.{planned.service['metadata']['name']}"
    assert planned.service["spec"]["selector"] == {names.JOB_NAME_LABEL: planned.job["metadata"]["name"]}


def test_progress_goes_to_the_attempts_own_address():
    progress = config_of(smallest(), Attempt(2)).progress
    assert progress is not None

    job = names.job_name("movie-sentiment", smallest().metadata.uid, 2)
    assert progress.url.endswith(f":8443/v1/namespaces/ml/jobs/{job}/progress")
    assert progress.ca == SETTINGS.progress_ca


def test_without_an_endpoint_no_pod_gets_a_token():
    pod = pod_of(smallest(), Settings())

    assert pod["automountServiceAccountToken"] is False
    assert "serviceAccountToken" not in json.dumps(pod)
    assert config_of(smallest(), settings=Settings()).progress is None
