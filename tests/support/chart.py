"""The chart's value sets, and what they render to in a form that two renderings share."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import yaml

from support.accounts import await_namespace
from support.cluster import ROOT

Object = dict[str, Any]
HERE = ROOT / "tests" / "chart"
CASES = sorted(path.stem for path in (HERE / "values").glob("*.yaml"))
# Made from files that have tests of their own.
_COPIED_KINDS = ("CustomResourceDefinition", "PrometheusRule", "ConfigMap")


def values_of(case: str) -> tuple[str, str]:
    """Return helm's flags for a value set."""
    return "--values", str(HERE / "values" / f"{case}.yaml")


def of_kind(objects: Iterable[Object], kind: str) -> list[Object]:
    """Return the objects of a kind."""
    return [each for each in objects if each["kind"] == kind]


def only(objects: Iterable[Object], kind: str) -> Object:
    """Return the one object of a kind."""
    (found,) = of_kind(objects, kind)
    return found


def container_of(objects: Iterable[Object]) -> Object:
    """Return the operator's container."""
    (found,) = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return found


def comparable(objects: Iterable[Object]) -> list[Object]:
    """Return the objects in one order, without copies of files and without what is drawn anew each time."""
    found = [each for each in objects if each["kind"] not in _COPIED_KINDS]
    for each in found:
        if each["kind"] == "Secret":
            each["data"] = dict.fromkeys(each["data"], "drawn")
        annotations = each.get("spec", {}).get("template", {}).get("metadata", {}).get("annotations", {})
        if "checksum/ca" in annotations:
            annotations["checksum/ca"] = "drawn"
    return sorted(found, key=_place)


def _place(each: Object) -> tuple[str, str, str]:
    return each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]


def golden_file(case: str) -> Path:
    """Return where the objects of a value set are written down."""
    return HERE / "golden" / f"{case}.yaml"


def text_of(objects: Iterable[Object]) -> str:
    """Return objects as one YAML text."""
    return yaml.safe_dump_all(objects, sort_keys=True, width=120, explicit_start=True)


def make_namespace(api: httpx.Client, name: str, **labels: str) -> str:
    """Make a namespace under the restricted Pod Security level."""
    level = {"pod-security.kubernetes.io/enforce": "restricted"}
    body = {"metadata": {"name": name, "labels": level | labels}}
    answer = api.post("/api/v1/namespaces", json=body)
    if answer.status_code != httpx.codes.CONFLICT:
        answer.raise_for_status()
    await_namespace(api, name)
    return name
