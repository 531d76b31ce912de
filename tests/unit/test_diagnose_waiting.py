"""What a gang waits for, by what the scheduler and the kubelet say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.exit_codes import Reason
from finetune_operator.diagnose import waiting
from finetune_operator.diagnose_text import MAX_TEXT
from finetune_operator.observe import ContainerFacts, PodCondition, PodFacts

ANY_TEXT = st.text(st.characters())


def pod(
    index: int = 0,
    *containers: ContainerFacts,
    phase: str = "Pending",
    node: str = "node-1",
    conditions: tuple[PodCondition, ...] = (),
    deleting: bool = False,
) -> PodFacts:
    name = f"sentiment-kx5zqwe7ab-{index}-x7k2p"
    return PodFacts(name, f"uid-{index}", index, phase, "", "", node, deleting, conditions, containers, "16Gi")


def trainer(state: str, reason: str = "", message: str = "", code: int | None = None) -> ContainerFacts:
    return ContainerFacts("trainer", state, reason, message, code, image="registry.example/trainer:1")


def unscheduled(message: str, reason: str = "Unschedulable") -> tuple[PodCondition, ...]:
    return (PodCondition("PodScheduled", "False", reason, message),)


@pytest.mark.parametrize(
    ("kubelet", "message", "remedy"),
    [
        ("ErrImagePull", "failed to authorize: 401 Unauthorized", "imagePullSecrets"),
        ("ImagePullBackOff", 'Back-off pulling image "x": ErrImagePull: x: not found', "name and tag"),
        ("InvalidImageName", 'Failed to apply default image tag "A B": couldn\'t parse image name', "not a valid"),
        ("ErrImageNeverPull", 'Container image "x" is not present with pull policy of Never', "imagePullPolicy"),
        ("ErrImagePull", "dial tcp: lookup registry.example: no such host", "cannot reach"),
        ("ErrImagePull", "no match for platform in manifest", "CPU type"),
        ("RegistryUnavailable", "image pull failed for x because the registry is unavailable", "cannot reach"),
    ],
)
def test_an_image_that_cannot_be_pulled_is_fatal_and_says_what_to_change(kubelet: str, message: str, remedy: str):
    why = waiting([pod(0, trainer("waiting", kubelet, message))])

    assert (why.reason, why.fatal) == ("ImagePullFailed", Reason.IMAGE_PULL_FAILED)
    assert remedy in why.remedy
    assert "registry.example/trainer:1" in why.message


@pytest.mark.parametrize(
    "message", ['secret "hf" not found', "couldn't find key token in Secret ml/hf", 'configmap "c" not found']
)
def test_a_missing_secret_or_configmap_is_fatal(message: str):
    why = waiting([pod(0, trainer("waiting", "CreateContainerConfigError", message))])

    assert why.fatal is Reason.CONFIG_ERROR
    assert message in why.message
    assert "Create the Secret" in why.remedy


def test_a_kubelet_that_is_slow_to_read_a_secret_is_not_fatal():
    message = "failed to sync secret cache: timed out waiting for the condition"

    assert waiting([pod(0, trainer("waiting", "CreateContainerConfigError", message))]).fatal is None


def test_an_image_that_runs_as_root_is_fatal_under_the_restricted_level():
    message = 'container has runAsNonRoot and image will run as root (pod: "x", container: trainer)'
    why = waiting([pod(0, trainer("waiting", "CreateContainerConfigError", message))])

    assert why.fatal is Reason.CONFIG_ERROR
    assert "runAsUser" in why.remedy


@pytest.mark.parametrize(
    ("conditions", "reason", "remedy"),
    [
        (unscheduled("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."), "Unschedulable", "nvidia.com/gpu"),
        (unscheduled("0/3 nodes are available: 3 node(s) had untolerated taint(s)."), "Unschedulable", "tolerations"),
        (unscheduled('0/1 nodes are available: persistentvolumeclaim "d" not found.'), "VolumeNotBound", "claim"),
        (
            unscheduled("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."),
            "VolumeNotBound",
            "",
        ),
        (
            unscheduled("Scheduling is blocked due to non-empty scheduling gates", "SchedulingGated"),
            "SchedulingGated",
            "",
        ),
        (unscheduled("running plugin: boom", "SchedulerError"), "SchedulerError", ""),
    ],
)
def test_a_pod_without_a_node_says_what_the_scheduler_says(
    conditions: tuple[PodCondition, ...], reason: str, remedy: str
):
    why = waiting([pod(0, node="", conditions=conditions)])

    assert (why.reason, why.fatal) == (reason, None)
    assert conditions[0].message in why.message
    assert remedy in why.remedy


def test_a_running_init_container_fetches_the_model():
    fetch = ContainerFacts("fetch-model", "running")

    assert waiting([pod(0, fetch, trainer("waiting", "PodInitializing"))]).reason == "FetchingModel"


def test_a_pod_that_is_set_up_and_one_that_nobody_looked_at_are_told_apart():
    assert waiting([pod(0, trainer("waiting", "ContainerCreating"))]).reason == "ContainerCreating"
    assert waiting([pod(0, node="")]).reason == "Pending"
    assert waiting([pod(0, node="", deleting=True)]).reason == "Terminating"
    assert "ResourceQuota" in waiting([]).remedy


def test_what_cannot_pass_by_itself_is_told_before_what_can():
    stuck = pod(1, trainer("waiting", "ErrImagePull", "not found"))
    gated = pod(0, node="", conditions=unscheduled("no room"))
    running = pod(2, trainer("running"), phase="Running")

    assert waiting([running, gated, stuck]).fatal is Reason.IMAGE_PULL_FAILED
    assert waiting([running, gated]).reason == "Unschedulable"
    assert waiting([running]).reason == "Pending"


@given(ANY_TEXT, ANY_TEXT)
def test_a_waiting_reason_is_always_fit_for_a_condition(reason: str, message: str):
    why = waiting([pod(0, trainer("waiting", reason, message))])

    assert why.reason.isalnum()
    assert why.reason.isascii()
    assert len(why.message) <= MAX_TEXT
    assert why.message.isprintable()
