"""The CRD on a real API server: what it accepts, refuses, defaults and shows, against the Python models."""

import copy
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from finetune_api.rules import TRANSITIONS
from finetune_api.spec import FineTuneJobSpec
from finetune_api.validation import InvalidSpec, validate_manifest, with_defaults
from support.manifests import ACCEPTED, GOOD, LISTS, REFUSED, changed

ROOT = Path(__file__).parents[2]
# A sweep runs where its file is, and is no resource of a cluster.
EXAMPLES = [path for path in sorted((ROOT / "examples").glob("*.yaml")) if "kind: FineTuneJob\n" in path.read_text()]


def jobs(namespace: str) -> str:
    return f"/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunejobs"


def create(api: httpx.Client, namespace: str, document: dict[str, Any], **query: str) -> httpx.Response:
    return api.post(jobs(namespace), json=document, params={"fieldValidation": "Strict", **query})


@pytest.mark.parametrize("path", ACCEPTED)
def test_what_the_models_accept_the_api_server_accepts(api: httpx.Client, namespace: str, path: str):
    document = changed(ACCEPTED[path])

    validate_manifest(document)
    answer = create(api, namespace, document, dryRun="All")

    assert answer.status_code == httpx.codes.CREATED, answer.json()["message"]


@pytest.mark.parametrize("path", REFUSED)
def test_what_the_models_refuse_the_api_server_refuses_at_the_same_path(api: httpx.Client, namespace: str, path: str):
    document = changed(REFUSED[path])

    with pytest.raises(InvalidSpec) as caught:
        validate_manifest(document)
    answer = create(api, namespace, document, dryRun="All")

    assert answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY
    told = {cause["field"] for cause in answer.json()["details"]["causes"]}
    assert {problem.path for problem in caught.value.problems} & told, told


@pytest.mark.parametrize("document", [GOOD, changed(LISTS)], ids=["smallest", "lists"])
def test_the_api_server_fills_in_the_defaults_that_the_models_have(
    api: httpx.Client, namespace: str, document: dict[str, Any]
):
    stored = create(api, namespace, document).json()["spec"]
    ours = with_defaults(FineTuneJobSpec, document["spec"])
    # The one default that is no schema's: a length when neither epochs nor maxSteps is given.
    ours["training"].pop("epochs")

    assert stored == ours


def test_an_unknown_field_is_refused_by_a_strict_client(api: httpx.Client, namespace: str):
    answer = create(api, namespace, changed({"trainng": {"epochs": 1}}))

    assert answer.status_code == httpx.codes.BAD_REQUEST
    assert 'unknown field "spec.trainng"' in answer.json()["message"]


def test_a_spec_of_a_megabyte_is_refused_at_admission(api: httpx.Client, namespace: str):
    answer = create(api, namespace, changed({"method.targets": "a," * 500_000 + "a"}))

    assert answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY
    assert "spec.method.targets" in answer.json()["message"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_accepted_as_kubectl_reads_it(cluster, namespace: str, example: Path):
    told = cluster.kubectl("create", "--dry-run=server", "-n", namespace, "-f", str(example))

    assert told == f"finetunejob.finetune.dev/{example.stem} created (server dry run)\n"


def test_a_started_job_keeps_its_task_model_data_method_and_training(api: httpx.Client, namespace: str):
    create(api, namespace, GOOD).raise_for_status()
    url = f"{jobs(namespace)}/good"
    patch = {"Content-Type": "application/merge-patch+json"}
    changes: dict[str, Any] = {
        "task": "masked-lm",
        "model": {"uri": "package://other"},
        "data": {"train": {"uri": "file://other.jsonl"}},
        "method": {"rank": 4},
        "training": {"seed": 1},
    }

    def edit(spec: dict[str, Any]) -> httpx.Response:
        return api.patch(url, json={"spec": spec}, headers=patch, params={"dryRun": "All"})

    before = {name: edit({name: value}).status_code for name, value in changes.items()}
    status = {"status": {"startTime": "2026-01-01T00:00:00Z", "phase": "Running"}}
    api.patch(f"{url}/status", json=status, headers=patch).raise_for_status()
    after = {name: edit({name: value}) for name, value in changes.items()}

    assert set(before.values()) == {httpx.codes.OK}
    assert {each.status_code for each in after.values()} == {httpx.codes.UNPROCESSABLE_ENTITY}
    assert all(f"spec.{name} cannot change once the job has started" in each.text for name, each in after.items())
    assert edit({"suspend": True, "ttlSecondsAfterFinished": 5}).status_code == httpx.codes.OK


def test_a_deadline_can_be_raised_or_removed_and_not_lowered(api: httpx.Client, namespace: str):
    create(api, namespace, changed({"activeDeadlineSeconds": 100})).raise_for_status()

    def edit(seconds: int | None) -> int:
        patch = {"spec": {"activeDeadlineSeconds": seconds}}
        headers = {"Content-Type": "application/merge-patch+json"}
        return api.patch(f"{jobs(namespace)}/good", json=patch, headers=headers, params={"dryRun": "All"}).status_code

    assert [edit(seconds) for seconds in (99, 101, None)] == [422, 200, 200]


def test_applying_the_same_manifest_again_changes_nothing(cluster, api: httpx.Client, namespace: str):
    text = yaml.safe_dump(changed({"data.validation": {"fraction": 0.1}, "storage": {"size": "1Gi"}}))
    seen: list[dict[str, Any]] = []
    for _ in range(2):
        cluster.kubectl("apply", "--server-side", "-n", namespace, "-f", "-", stdin=text)
        seen.append(api.get(f"{jobs(namespace)}/good").json()["metadata"])

    assert seen[0]["generation"] == seen[1]["generation"] == 1
    assert seen[0]["resourceVersion"] == seen[1]["resourceVersion"]


def test_every_field_is_explained(cluster, crd_document: dict[str, Any]):
    schema = crd_document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

    def undocumented(node: dict[str, Any], path: str) -> list[str]:
        found = [] if node.get("description") or path == "" else [path]
        for name, child in node.get("properties", {}).items():
            found += undocumented(child, f"{path}.{name}")
        if "properties" in node.get("items", {}):
            for name, child in node["items"]["properties"].items():
                found += undocumented(child, f"{path}[].{name}")
        return found

    assert set(undocumented(schema, "")) <= {".apiVersion", ".kind", ".metadata"}
    assert "samples per optimiser step" in cluster.kubectl("explain", "ftj.spec.training.batchSize").lower()


STATES = {
    "pending": {"phase": "Pending"},
    "running": {
        "phase": "Running",
        "restarts": 1,
        "progress": {"step": 120, "maxSteps": 300, "percent": 40, "loss": "0.4215", "display": "120/300 (40%)"},
    },
    "failed": {
        "phase": "Failed",
        "failure": {"reason": "DataError", "message": "train.csv row 7", "exitCode": 65, "retryable": False},
    },
}
TABLE = """\
NAME      PHASE     PROGRESS        LOSS     ETA   REASON      RESTARTS
failed    Failed                                   DataError   
pending   Pending                                              
running   Running   120/300 (40%)   0.4215                     1
"""  # noqa: W291 - kubectl pads its columns


def test_kubectl_get_shows_phase_progress_loss_and_reason(cluster, api: httpx.Client, namespace: str):
    headers = {"Content-Type": "application/merge-patch+json"}
    for name, status in STATES.items():
        document = copy.deepcopy(GOOD)
        document["metadata"]["name"] = name
        create(api, namespace, document).raise_for_status()
        api.patch(f"{jobs(namespace)}/{name}/status", json={"status": status}, headers=headers).raise_for_status()

    lines = cluster.kubectl("get", "ftj", "-n", namespace).splitlines()
    cut = lines[0].index("AGE")
    chosen = cluster.kubectl("get", "ftj", "-n", namespace, "--field-selector=status.phase=Failed", "-o", "name")

    assert [line[:cut].rstrip() for line in lines] == [line.rstrip() for line in TABLE.splitlines()]
    assert chosen == "finetunejob.finetune.dev/failed\n"


def test_kubectl_get_wide_shows_model_method_queue_and_artifact(cluster, api: httpx.Client, namespace: str):
    create(api, namespace, changed({"scheduling.queue": "team-a"})).raise_for_status()
    artifact = {"uri": "pvc://models/good", "digest": "sha256:0", "formats": ["adapter"]}
    headers = {"Content-Type": "application/merge-patch+json"}
    status = {"status": {"result": {"artifact": artifact}}}
    api.patch(f"{jobs(namespace)}/good/status", json=status, headers=headers).raise_for_status()

    head, row = cluster.kubectl("get", "ftj", "-n", namespace, "-o", "wide").splitlines()

    assert head.split()[-6:] == ["AGE", "MODEL", "METHOD", "GPUS", "QUEUE", "ARTIFACT"]
    assert row.split()[-4:] == ["package://some_model", "lora", "team-a", "pvc://models/good"]


def test_a_finished_job_ends_kubectl_wait(cluster, api: httpx.Client, namespace: str):
    create(api, namespace, GOOD).raise_for_status()
    condition = {"type": "Finished", "status": "True", "reason": "Complete"}
    status = {"conditions": [condition | {"lastTransitionTime": "2026-01-01T00:00:00Z"}]}
    headers = {"Content-Type": "application/merge-patch+json"}
    api.patch(f"{jobs(namespace)}/good/status", json={"status": status}, headers=headers).raise_for_status()

    assert "met" in cluster.kubectl("wait", "ftj/good", "-n", namespace, "--for=condition=Finished", "--timeout=5s")


def test_every_transition_rule_is_in_the_crd(crd_document: dict[str, Any]):
    schema = crd_document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

    assert [each["rule"] for each in schema["x-kubernetes-validations"]] == [rule for rule, _ in TRANSITIONS]
    assert len(json.dumps(crd_document)) < 200_000
