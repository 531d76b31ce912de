from typing import Any

import pytest

from finetune_operator.plan import unsupported
from golden.cases import smallest

MOUNT = {"name": "v", "mountPath": "/opt/v"}
VOLUMES = [{"name": "v", "emptyDir": {}}]
UNSUPPORTED: list[tuple[str, dict[str, Any]]] = [
    ("spec.model.uri", {"model": {"uri": "file://model"}}),
    ("spec.model.uri", {"model": {"uri": "oci://registry.example/model:1"}}),
    ("spec.data.train.uri", {"data": {"train": {"uri": "file:///data/rows.jsonl"}}}),
    ("spec.data.train.uri", {"data": {"train": {"uri": "s3://bucket/rows.jsonl"}}}),
    ("spec.data.test.uri", {"data": {"train": {"uri": "pvc://c/x"}, "test": {"uri": "gs://bucket/rows.jsonl"}}}),
    ("spec.output.uri", {"output": {}}),
    ("spec.output.uri", {"output": {"uri": "file://out"}}),
    ("spec.output.uri", {"output": {"uri": "s3://bucket/out"}}),
    ("spec.output.uri", {"output": {"uri": "pvc://models"}}),
    ("spec.output.uri", {"output": {"uri": "pvc://corpus/a"}, "data": {"train": {"uri": "pvc://corpus/a/rows.jsonl"}}}),
    ("spec.workers.resources.requests.nvidia.com/gpu", {"workers": {"resources": {"requests": {"nvidia.com/gpu": 1}}}}),
    (
        "spec.workers.resources.requests.memory",
        {"workers": {"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}}},
    ),
    ("spec.workers.resources.limits.nvidia.com/gpu", {"workers": {"resources": {"limits": {"nvidia.com/gpu": "0.5"}}}}),
    ("spec.pod.resourceClaims[0]", {"pod": {"resourceClaims": [{"name": "g"}]}}),
    (
        "spec.pod.resourceClaims",
        {"pod": {"resourceClaims": [{"name": "g", "resourceClaimName": "a"}, {"name": "g", "resourceClaimName": "b"}]}},
    ),
    ("spec.pod.env[0].value", {"pod": {"env": [{"name": "X", "value": "a\0b"}]}}),
    ("spec.pod.env", {"pod": {"env": [{"name": "X", "value": "a"}, {"name": "X", "value": "b"}]}}),
    ("spec.pod.volumes", {"pod": {"volumes": VOLUMES * 2}}),
    ("spec.pod.volumes[0].name", {"pod": {"volumes": [{"name": "finetune-work", "emptyDir": {}}]}}),
    ("spec.pod.volumeMounts[0].name", {"pod": {"volumeMounts": [MOUNT]}}),
    ("spec.pod.volumeMounts", {"pod": {"volumes": VOLUMES, "volumeMounts": [MOUNT, MOUNT]}}),
    *(
        (
            "spec.pod.volumeMounts[0].mountPath",
            {"pod": {"volumes": VOLUMES, "volumeMounts": [MOUNT | {"mountPath": path}]}},
        )
        for path in ("/var", "/dev", "//etc/finetune/", "/opt/../etc", "/var/finetune/claims/models")
    ),
    *(
        ("spec.pod.volumeMounts[0].subPath", {"pod": {"volumes": VOLUMES, "volumeMounts": [MOUNT | {"subPath": path}]}})
        for path in ("../x", "/abs", "a/../../b", "a\0b")
    ),
    ("spec.pod.labels", {"pod": {"labels": {"batch.kubernetes.io/job-name": "x"}}}),
    ("spec.pod.annotations", {"pod": {"annotations": {f"n{number}": "x" * 4096 for number in range(40)}}}),
]


@pytest.mark.parametrize(("path", "change"), UNSUPPORTED, ids=range(len(UNSUPPORTED)))
def test_what_a_cluster_cannot_do_is_refused_with_a_remedy(path: str, change: dict[str, Any]):
    (problem,) = unsupported(smallest(**change))

    assert problem.path == path
    assert problem.rule
    assert problem.remedy.endswith(".")
    assert str(problem).isprintable()


def test_everything_that_a_cluster_cannot_do_is_named_at_once():
    change = {"model": {"uri": "file://m"}, "data": {"train": {"uri": "s3://b/k"}}, "output": {}}

    assert [each.path for each in unsupported(smallest(**change))] == [
        "spec.model.uri",
        "spec.data.train.uri",
        "spec.output.uri",
    ]


def test_an_output_beside_the_data_is_no_overlap():
    change = {"output": {"uri": "pvc://corpus/a"}, "data": {"train": {"uri": "pvc://corpus/ab/rows.jsonl"}}}

    assert unsupported(smallest(**change)) == ()
