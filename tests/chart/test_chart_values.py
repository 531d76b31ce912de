"""values.yaml, its schema and its README say the same, and nothing in them is without an effect."""

import importlib.util
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from support.chart import Object, text_of
from support.cluster import ROOT
from support.helm import CHART, Helm, HelmFailed

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
# Rendering is the same each time, and everything that depends on another value is there.
BASE = {
    "tls.source": "secret",
    "tls.secretName": "ours",
    "replicas": 2,
    "networkPolicy.trainers.namespaces": ["team-a"],
    "monitoring.serviceMonitor.enabled": True,
    "monitoring.podMonitor.enabled": True,
    "monitoring.dashboards.enabled": True,
}
SELECTOR = {"matchLabels": {"a": "b"}}
# A value for each key that differs from BASE and from the default.
CHANGES: dict[str, Any] = {
    "replicas": 1,
    "image.repository": "other",
    "image.tag": "other",
    "image.digest": f"sha256:{'0' * 64}",
    "image.pullPolicy": "Never",
    "imagePullSecrets": ["registry"],
    "trainer.image.repository": "other",
    "trainer.image.tag": "other",
    "trainer.image.digest": f"sha256:{'0' * 64}",
    "trainer.image.pullPolicy": "Never",
    "watchNamespaces": ["team-b"],
    "logLevel": "DEBUG",
    "extraArgs": ["--workers=4"],
    "crd.enabled": False,
    "crd.keep": False,
    "rbac.create": False,
    "rbac.aggregate": False,
    "serviceAccount.create": False,
    "serviceAccount.name": "other",
    "tls.source": "certManager",
    "tls.secretName": "other",
    "resources": {"limits": {"memory": "1Gi"}},
    "priorityClassName": "high",
    "nodeSelector": {"a": "b"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"podAffinity": {"a": "b"}},
    "networkPolicy.enabled": False,
    "networkPolicy.apiServer.ports": [8443],
    "networkPolicy.dns.namespace": "other",
    "networkPolicy.dns.port": 5353,
    "networkPolicy.prometheus.namespaceSelector": SELECTOR,
    "networkPolicy.prometheus.podSelector": SELECTOR,
    "networkPolicy.trainers.namespaces": ["team-c"],
    "networkPolicy.trainers.stores": [],
    "monitoring.labels": {"a": "b"},
    "monitoring.serviceMonitor.enabled": False,
    "monitoring.serviceMonitor.interval": "7s",
    "monitoring.podMonitor.enabled": False,
    "monitoring.podMonitor.interval": "7s",
}
# Those whose effect needs another value, or a file that may not be there yet.
SPECIAL = ("tls.issuerRef", "monitoring.prometheusRule.enabled", "monitoring.dashboards")


def leaves(schema: Mapping[str, Any], values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield every key whose schema is not an object of named parts."""
    for key, value in values.items():
        part = schema["properties"][key]
        part = SCHEMA["definitions"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        if isinstance(value, dict) and value and set(value) <= set(part.get("properties", ())):
            yield from leaves(part, value, f"{above}{key}.")
        else:
            yield f"{above}{key}"


def flags(values: Mapping[str, Any]) -> list[str]:
    return [f"--set-json={key}={json.dumps(value)}" for key, value in values.items()]


def render(helm: Helm, changes: Mapping[str, Any]) -> str:
    return text_of(helm.objects(*flags(BASE | changes)))


@pytest.fixture(scope="module")
def unchanged(newest_helm: Helm) -> str:
    return render(newest_helm, {})


@pytest.mark.parametrize("key", CHANGES)
def test_a_value_has_an_effect(newest_helm: Helm, unchanged: str, key: str):
    assert render(newest_helm, {key: CHANGES[key]}) != unchanged


def test_no_value_is_left_out_of_the_test_above():
    keys = set(leaves(SCHEMA, VALUES))
    whole = {"networkPolicy.prometheus.podSelector", "resources"}
    tested = {key for key in keys if key in CHANGES or key.startswith((*SPECIAL, *whole))}

    assert keys == tested


def test_the_issuer_is_named_in_the_certificate(newest_helm: Helm):
    values = {"tls.source": "certManager", "tls.issuerRef": {"name": "company", "kind": "ClusterIssuer"}}

    (certificate,) = (each for each in newest_helm.objects(*flags(values)) if each["kind"] == "Certificate")
    assert certificate["spec"]["issuerRef"] == values["tls.issuerRef"]


def open_objects(schema: Any, path: str = "") -> Iterator[str]:
    """Yield the path of every object whose unknown keys the schema lets through."""
    if isinstance(schema, dict):
        is_object = schema.get("type") == "object" and "properties" in schema
        if is_object and schema.get("additionalProperties") is not False:
            yield path
        for key, value in schema.items():
            yield from open_objects(value, f"{path}/{key}")


def test_the_schema_refuses_unknown_keys_at_every_level():
    assert list(open_objects(SCHEMA)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"replica": 1},
        {"image.name": "x"},
        {"replicas": "2"},
        {"tls.source": "none"},
        {"networkPolicy.trainers.stores": [{"cidr": "169.254.0.0/16", "ports": [80]}]},
        {"networkPolicy.trainers.stores": [{"cidr": "169.254.169.254/32", "ports": [80]}]},
        {"networkPolicy.trainers.stores": [{"cidr": "128.0.0.0/1", "ports": [80]}]},
        {"networkPolicy.trainers.stores": [{"cidr": "fd00:ec2::254/128", "ports": [80]}]},
        {"networkPolicy.trainers.stores": [{"cidr": "fd00::/8", "ports": [80]}]},
        {"networkPolicy.trainers.stores": [{"cidr": "10.0.0.0/8"}]},
        {"extraArgs": ["rm -rf /"]},
        {"image.digest": "latest"},
    ],
    ids=str,
)
def test_wrong_values_are_refused(helm: Helm, wrong: Object):
    with pytest.raises(HelmFailed, match="values don't meet the specifications of the schema"):
        helm.template(*flags(wrong))


def test_a_secret_of_ones_own_must_be_named(helm: Helm):
    with pytest.raises(HelmFailed, match=r"tls\.secretName: needed when tls.source is secret"):
        helm.template("--set=tls.source=secret")


def test_an_older_kubernetes_is_refused(helm: Helm):
    with pytest.raises(HelmFailed, match=r"1\.33"):
        helm.template(kubernetes="1.32.9")


def test_the_chart_may_be_part_of_another(helm: Helm):
    assert helm.template("--set=global.ours=1")


def test_a_value_without_a_comment_stops_the_generator():
    spec = importlib.util.spec_from_file_location("generate_chart", ROOT / "charts" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)

    with pytest.raises(SystemExit, match=r"values.yaml: a.c has no comment"):
        generate.readme("a:\n  # Told.\n  b: 1\n  c: 2\n")
