import copy
import json
import string

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune_api import names
from finetune_api.exit_codes import Reason
from finetune_api.period import InvalidPeriod, parse_period
from finetune_api.progress import ProgressEvent
from finetune_api.result import Failure, Result
from finetune_api.rules import RULES, violations
from finetune_api.run_config import DigestMismatch, JobIdentity, Paths, RunConfig
from finetune_api.spec import FineTuneJobSpec
from finetune_api.uri import SCHEMES, InvalidUri, parse_uri
from finetune_api.validation import InvalidSpec, validate_manifest, with_defaults
from support.manifests import GOOD, LISTS, REFUSED, changed


def broken(changes: dict[str, object]) -> list[str]:
    """Return the paths of the problems after changing fields below spec."""
    try:
        validate_manifest(changed(changes))
    except InvalidSpec as error:
        return [problem.path for problem in error.problems]
    return []


def test_the_smallest_manifest_is_valid_and_its_defaults_are_those_of_the_schema():
    job = validate_manifest(GOOD)

    assert job.spec.method.type == "lora"
    assert job.spec.training.epochs == 3.0
    assert job.spec.training.batch_size == 32


@pytest.mark.parametrize("path", REFUSED)
def test_a_broken_rule_is_reported_at_its_path(path: str):
    assert f"spec.{path.partition(' ')[0]}" in broken(REFUSED[path])


def test_every_rule_has_an_example_that_breaks_it_alone():
    specs = [with_defaults(FineTuneJobSpec, changed(changes)["spec"]) for changes in REFUSED.values()]
    found = [[rule for _, rule, _ in violations(spec)] for spec in specs]

    assert [rule for rule in RULES if [rule] not in found] == []


def test_defaults_are_filled_into_the_objects_of_a_list_and_an_absent_list_stays_absent():
    spec = with_defaults(FineTuneJobSpec, changed(LISTS)["spec"])

    assert spec["scheduling"] == {"tolerations": [{"key": "gpu", "operator": "Equal"}, {"operator": "Exists"}]}
    assert spec["pod"]["env"] == []
    assert spec["pod"]["volumes"] == [{"name": "v", "emptyDir": {"medium": ""}}, {"name": "c", "claim": "corpus"}]
    assert spec["pod"]["volumeMounts"] == [{"name": "v", "mountPath": "/v", "readOnly": False}]
    assert "resourceClaims" not in spec["pod"]
    assert spec["data"]["validation"]["format"] == "auto"


def test_a_null_is_an_absent_field_and_gets_its_default():
    spec = with_defaults(FineTuneJobSpec, changed({"suspend": None, "method": None, "data.test": None})["spec"])

    assert spec["suspend"] is False
    assert spec["method"] == {"type": "lora"}
    assert "test" not in spec["data"]


def test_defaults_are_filled_in_once():
    once = with_defaults(FineTuneJobSpec, changed(LISTS)["spec"])

    assert with_defaults(FineTuneJobSpec, once) == once


def test_all_problems_are_reported_at_once_with_value_and_remedy():
    document = copy.deepcopy(GOOD)
    document["spec"] |= {"trainng": 1, "method": {"type": "full", "rank": 8}, "training": {"batchSize": "8"}}

    with pytest.raises(InvalidSpec) as caught:
        validate_manifest(document)

    assert [problem.path for problem in caught.value.problems] == [
        "spec.training.batchSize",
        "spec.trainng",
        "spec.method.rank",
    ]
    assert all(problem.found and problem.remedy for problem in caught.value.problems)
    assert "did you mean training?" in str(caught.value)


HOSTILE = ["$(HOME)", "a\nb", "a\x00b", "../../etc/passwd", "\u202eabc", "; rm -rf /", "\x1b[2J", "{{ x }}"]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("path", ["model.uri", "task", "scheduling.queue", "checkpoint.every", "method.targets"])
def test_a_hostile_text_is_refused_and_escaped_in_the_message(path: str, text: str):
    document = copy.deepcopy(GOOD)
    target = document["spec"]
    *parents, last = path.split(".")
    for part in parents:
        target = target.setdefault(part, {})
    target[last] = text

    with pytest.raises(InvalidSpec) as caught:
        validate_manifest(document)

    assert str(caught.value).replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "text",
    ["ftp://x/y", "file://../x", "file://a/../../b", "s3://user:pw@bucket/k", "hf://a/b/../c", "file://", "x", "hf://"]
    + ["package://os;import", "pvc://Claim/x", "file://a\nb", "oci://registry"],
)
def test_an_address_with_another_scheme_credentials_or_dots_is_refused(text: str):
    with pytest.raises(InvalidUri):
        parse_uri(text)


@given(st.sampled_from(SCHEMES), st.text(alphabet=string.ascii_lowercase + "/.@:-_", min_size=1, max_size=30))
@example("file", "./:@")
def test_an_accepted_address_survives_being_written_and_read(scheme: str, rest: str):
    try:
        first = parse_uri(f"{scheme}://{rest}")
    except InvalidUri:
        return

    assert parse_uri(str(first)) == first
    assert ".." not in first.path.split("/")


def test_periods_have_one_unit_and_are_above_zero():
    assert parse_period("5m").seconds == 300
    assert parse_period("200steps").steps == 200
    assert parse_period("0.25epoch").epochs == 0.25
    for wrong in ("0s", "5", "5 m", "-1s", "0.0epoch", "1d", "5m\n"):
        with pytest.raises(InvalidPeriod):
            parse_period(wrong)


@given(
    st.text(max_size=6000), st.text(max_size=3000), st.dictionaries(st.text(max_size=40), st.floats(0, 1), max_size=60)
)
def test_a_result_always_fits_the_termination_message_and_keeps_its_reason(message: str, remedy: str, metrics: dict):
    result = Result(outcome="Failed", metrics=metrics, failure=Failure.of(Reason.DATA_ERROR, message, remedy, rank=3))

    text = result.to_json()

    assert len(text.encode()) <= names.TERMINATION_MESSAGE_BYTES
    back = Result.from_json(text)
    assert back.failure is not None
    assert back.failure.reason is Reason.DATA_ERROR
    assert back.failure.rank == 3


def test_a_patched_run_configuration_is_refused_by_its_digest():
    paths = Paths(work="/w", output="/o", cache="/c", manifest_folder="/m")
    config = RunConfig(job=JobIdentity(name="a"), spec=validate_manifest(GOOD).spec, paths=paths)
    text, digest = config.to_json(), config.digest()

    assert RunConfig.from_json(text, sha256=digest) == config
    with pytest.raises(DigestMismatch):
        RunConfig.from_json(text.replace('"batchSize":32', '"batchSize":64'), sha256=digest)


@settings(max_examples=500)
@given(st.text(alphabet=string.ascii_lowercase + string.digits + "-.", min_size=1, max_size=253), st.uuids())
def test_names_of_jobs_are_valid_labels_and_differ_by_uid_and_attempt(name: str, uid: object):
    first, second = names.job_name(name, str(uid), 1), names.job_name(name, str(uid), 2)

    assert first != second
    assert len(first) <= names.MAX_JOB_NAME
    assert first[0].isalnum()
    assert first[-1].isalnum()
    assert set(first) <= set(string.ascii_lowercase + string.digits + "-")


def test_an_event_is_one_line_whatever_its_message():
    event = ProgressEvent(kind="warning", at="2026-01-01T00:00:00Z", message="a\nb\ud800\x1b[1m")

    assert "\n" not in event.to_json()
    assert ProgressEvent.from_json(event.to_json()).kind == "warning"


def test_the_crd_is_structural_small_and_describes_every_field(pytestconfig: pytest.Config):
    path = pytestconfig.rootpath / "crds" / "finetunejobs.finetune.dev.yaml"
    crd = yaml.safe_load(path.read_text())
    version = crd["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]

    assert path.stat().st_size < 200_000
    assert len(schema["properties"]["spec"]["x-kubernetes-validations"]) >= 20
    assert [each["jsonPath"] for each in version["selectableFields"]] == [".spec.task", ".status.phase"]
    for where, field in walk(schema["properties"]["spec"], "spec"):
        assert field.get("description"), where
        assert not {"$ref", "anyOf", "title", "const"} & set(field) or "x-kubernetes-int-or-string" in field, where


def test_the_status_has_no_default_since_it_would_be_a_claim_that_nobody_made(pytestconfig: pytest.Config):
    crd = yaml.safe_load((pytestconfig.rootpath / "crds" / "finetunejobs.finetune.dev.yaml").read_text())
    status = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]

    assert [where for where, field in walk({"properties": {"status": status}}, "") if "default" in field] == []
    assert status["properties"]["conditions"]["items"]["required"] == ["type", "status", "reason", "lastTransitionTime"]


def walk(schema: dict, path: str):
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from walk(field, f"{path}.{name}")
        yield from walk(field.get("items", {}), f"{path}.{name}[]")


def test_no_default_of_the_schema_breaks_a_rule_of_another_task_or_method():
    for task in ("text-classification", "text-regression", "causal-lm", "masked-lm"):
        for method in ("lora", "full"):
            assert broken({"task": task, "method.type": method}) == []


def test_the_contract_names_its_labels_in_one_place(pytestconfig: pytest.Config):
    literal = '"finetune' + ".dev/"
    sources = [
        path for folder in ("operator", "trainer-image") for path in (pytestconfig.rootpath / folder).rglob("*.py")
    ]
    offenders = [path.name for path in sources if literal in path.read_text()]

    assert offenders == []


def test_reasons_survive_json():
    failure = Failure.of(Reason.STALLED, "m")

    assert json.loads(failure.model_dump_json())["reason"] == "Stalled"
