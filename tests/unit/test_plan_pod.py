import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api import names
from finetune_operator.plan import Attempt, plan
from finetune_operator.plan.environment import literal
from finetune_operator.plan.quantity import amount
from golden.cases import CASES, FIRST, SETTINGS, config_of, env_of, job_of, named, plan_of, pod_of, smallest, trainer_of


@pytest.mark.parametrize(
    ("limits", "processes"),
    [
        ({}, 1),
        ({"cpu": 8}, 1),
        ({"nvidia.com/gpu": 4}, 4),
        ({"amd.com/gpu": "2"}, 2),
        ({"nvidia.com/mig-1g.10gb": 3, "nvidia.com/mig-2g.20gb": 1}, 4),
        ({"example.com/accelerator": 4}, 1),
        ({"nvidia.com/gpu": 0}, 1),
        ({"nvidia.com/gpu": 1000}, 64),
    ],
)
def test_there_is_one_process_per_gpu(limits: dict[str, Any], processes: int):
    assert config_of(smallest(workers={"resources": {"limits": limits}})).processes == processes


def test_the_manifest_decides_the_processes_where_it_says_so():
    workers = {"nodes": 3, "processesPerNode": 2, "resources": {"limits": {"nvidia.com/gpu": 4}}}

    assert config_of(smallest(workers=workers)).processes == 6


def test_a_default_request_never_stands_beside_a_limit():
    resources = trainer_of(smallest(workers={"resources": {"limits": {"memory": "512Mi"}}}))["resources"]

    assert resources == {"limits": {"memory": "512Mi"}, "requests": {"cpu": "1"}}


@pytest.mark.parametrize(
    ("workers", "pod", "size"),
    [
        ({}, {}, "1024Mi"),
        ({"processesPerNode": 8}, {}, "8192Mi"),
        ({"processesPerNode": 8, "resources": {"limits": {"memory": "4Gi"}}}, {}, "2048Mi"),
        ({"resources": {"limits": {"memory": "1500M"}}}, {}, "715Mi"),
        ({"processesPerNode": 8}, {"shmSize": "3Gi"}, "3Gi"),
    ],
)
def test_shared_memory_grows_with_the_processes_and_stays_below_the_limit(workers: Any, pod: Any, size: str):
    volumes = {each["name"]: each for each in pod_of(smallest(workers=workers, pod=pod))["volumes"]}

    assert volumes["finetune-shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": size}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("1500m", 1.5), ("2Ki", 2048), ("3M", 3e6), ("0.5Gi", 2**29), ("1k", 1000), ("7E", 7e18)],
)
def test_a_quantity_is_read_as_kubernetes_reads_it(text: str, value: float):
    assert float(amount(text)) == value


def test_the_container_that_fetches_has_the_token_and_no_device_and_the_ranks_are_offline():
    pod = pod_of(job_of("hub"))
    (fetch,), (trainer,) = pod["initContainers"], pod["containers"]

    assert env_of(fetch)["HF_TOKEN"] == {"secretKeyRef": {"name": "hf", "key": "token"}}
    assert env_of(fetch)["HF_HUB_OFFLINE"] == env_of(fetch)["TRANSFORMERS_OFFLINE"] == "0"
    assert fetch["args"][0] == "fetch"
    assert fetch["args"][1:] == trainer["args"][1:]
    assert fetch["resources"] == {"limits": {"memory": "24Gi"}, "requests": {"cpu": "1"}}
    assert "HF_TOKEN" not in env_of(trainer)
    assert env_of(trainer)["HF_HUB_OFFLINE"] == env_of(trainer)["TRANSFORMERS_OFFLINE"] == "1"
    assert env_of(fetch)["HF_ENDPOINT"] == env_of(trainer)["HF_ENDPOINT"] == "https://mirror.example"


def expanded(text: str, known: dict[str, str]) -> str:
    """Expand as Kubernetes does it for a container's environment."""
    out, at = "", 0
    while at < len(text):
        following = text[at + 1 : at + 2]
        if text[at] != "$" or not following:
            out, at = out + text[at], at + 1
        elif following == "$":
            out, at = out + "$", at + 2
        elif following == "(" and (end := text.find(")", at)) >= 0:
            name = text[at + 2 : end]
            out, at = out + known.get(name, f"$({name})"), end + 1
        else:
            out, at = out + "$" + following, at + 2
    return out


@given(st.one_of(st.text(alphabet="$()HOME {}\n"), st.text()))
def test_kubernetes_hands_an_environment_variable_over_as_it_was_written(text: str):
    assert expanded(literal(text), {"HOME": "/root", "": "empty"}) == text


def test_a_reference_to_a_variable_is_escaped():
    assert literal("$(X)") == "$$(X)"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=253))
def test_a_hostile_column_name_reaches_the_trainer_unchanged(text: str):
    data = {"train": {"uri": "pvc://corpus/train.jsonl"}, "fields": {"text": text}}

    assert config_of(smallest(data=data)).spec.data.fields["text"] == text


def test_no_text_of_a_manifest_is_an_argument_or_a_command():
    for container in [*pod_of(job_of("hostile"))["containers"], *pod_of(job_of("hub"))["initContainers"]]:
        assert "command" not in container
        assert container["args"][:4] == [container["args"][0], "--config", "/etc/finetune/run-config.json", "--sha256"]
        assert re.fullmatch("[0-9a-f]{64}", container["args"][4])


def test_a_variable_of_the_manifest_replaces_ours_and_is_there_once():
    workers = {"nodes": 2}
    env = [each["name"] for each in trainer_of(smallest(workers=workers))["env"]]
    changed = trainer_of(smallest(workers=workers, pod={"env": [{"name": "NCCL_DEBUG", "value": "INFO"}]}))

    assert sorted(env) == sorted(each["name"] for each in changed["env"])
    assert env_of(changed)["NCCL_DEBUG"] == "INFO"


def test_no_override_replaces_the_labels_by_which_pods_are_found():
    labels = {names.LABEL_MANAGED_BY: "somebody", "team": "a"}
    found = plan(smallest(pod={"labels": labels}), FIRST, SETTINGS).job["spec"]["template"]["metadata"]["labels"]

    assert found[names.LABEL_MANAGED_BY] == names.MANAGER
    assert found["team"] == "a"


@pytest.mark.parametrize("case", CASES)
def test_every_mount_has_its_volume_and_every_claim_is_one_volume(case: str):
    pod = plan_of(case).job["spec"]["template"]["spec"]
    volumes = [each["name"] for each in pod["volumes"]]
    claims = [each["persistentVolumeClaim"]["claimName"] for each in pod["volumes"] if "persistentVolumeClaim" in each]

    assert len(set(volumes)) == len(volumes)
    assert len(set(claims)) == len(claims)
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        places = [each["mountPath"] for each in container["volumeMounts"]]
        assert len(set(places)) == len(places)
        assert {each["name"] for each in container["volumeMounts"]} <= set(volumes)


def test_a_claim_that_is_only_read_is_mounted_read_only():
    pod = pod_of(smallest())
    volumes = {
        each["persistentVolumeClaim"]["claimName"]: each for each in pod["volumes"] if "persistentVolumeClaim" in each
    }
    mounts = {each["mountPath"]: each for each in pod["containers"][0]["volumeMounts"]}

    assert volumes["corpus"]["persistentVolumeClaim"]["readOnly"] is True
    assert mounts["/var/finetune/claims/corpus"]["readOnly"] is True
    assert "readOnly" not in volumes["models"]["persistentVolumeClaim"]
    assert "readOnly" not in mounts["/var/finetune/claims/models"]


def test_a_claim_of_several_nodes_is_one_that_all_can_write_to():
    one, two = (plan(smallest(workers={"nodes": nodes}), FIRST, SETTINGS).claim for nodes in (1, 2))

    assert one["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert two["spec"]["accessModes"] == ["ReadWriteMany"]


def test_every_attempt_finds_the_same_folder_in_a_shared_claim():
    mounts = [
        {
            each["mountPath"]: each
            for each in plan(job_of("claim-name"), Attempt(number), SETTINGS).job["spec"]["template"]["spec"][
                "containers"
            ][0]["volumeMounts"]
        }[names.MOUNT_WORK]
        for number in (1, 2)
    ]

    assert mounts[0] == mounts[1]
    assert mounts[0]["subPath"] == "a.job.with.dots-3d5a8c54"
    long = named("n" * 253, "3d5a8c54-61b0-4f3a-93b6-27e5cb3d9d03")
    assert len(plan(long, FIRST, SETTINGS).job["metadata"]["name"]) <= 52


@pytest.mark.parametrize(
    ("attempt", "queue", "suspended"), [(False, None, False), (True, None, True), (False, "q", True)]
)
def test_a_suspended_job_and_one_with_a_queue_wait(attempt: bool, queue: str | None, suspended: bool):
    scheduling = {} if queue is None else {"queue": queue}
    job = plan(smallest(scheduling=scheduling), Attempt(1, suspended=attempt), SETTINGS).job

    assert job["spec"]["suspend"] is suspended
    assert job["metadata"]["labels"].get(names.LABEL_QUEUE) == queue


def test_root_is_asked_for_by_name_only():
    assert pod_of(smallest())["securityContext"]["runAsNonRoot"] is True
    assert pod_of(smallest(pod={"runAsUser": 0}))["securityContext"]["runAsNonRoot"] is False
