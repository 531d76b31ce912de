"""Generate the CRD and the reference page from the contract's models.

Pydantic's JSON schema becomes a structural schema (no references, no null, booleans for exclusive bounds); the rules of
`finetune_api.rules` become CEL. The descriptions are the docstrings under the fields, read from the source, so that
importing the contract at run time does not pay for them.
"""

import ast
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from finetune_api import names, status, sweep
from finetune_api.rules import RULES, TRANSITIONS
from finetune_api.spec import FineTuneJobSpec

HERE = Path(__file__).parent
CRD_FILE = HERE / f"{names.PLURAL}.{names.GROUP}.yaml"
REFERENCE_FILE = HERE.parent / "docs" / "reference" / "finetunejob.md"
SWEEP_REFERENCE_FILE = REFERENCE_FILE.with_name("finetunesweep.md")
MAX_CRD_BYTES = 200_000
_KEPT = ("minLength", "maxLength", "pattern", "minimum", "maximum", "minItems", "maxItems", "enum", "default")
_COLUMNS = (
    ("Phase", "string", ".status.phase", 0),
    ("Progress", "string", ".status.progress.display", 0),
    ("Loss", "string", ".status.progress.loss", 0),
    ("ETA", "string", ".status.progress.eta", 0),
    ("Reason", "string", ".status.failure.reason", 0),
    ("Restarts", "integer", ".status.restarts", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Model", "string", ".spec.model.uri", 1),
    ("Method", "string", ".spec.method.type", 1),
    ("GPUs", "string", r".spec.workers.resources.limits.nvidia\.com/gpu", 1),
    ("Queue", "string", ".spec.scheduling.queue", 1),
    ("Artifact", "string", ".status.result.artifact.uri", 1),
)


def field_docs() -> dict[tuple[str, str], str]:
    """Return (class name, field name) to the docstring under the field, over all modules of the contract."""
    docs: dict[tuple[str, str], str] = {}
    for path in sorted((HERE / "finetune_api").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                docs |= {(node.name, name): text for name, text in _documented(node)}
    return docs


def _documented(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for statement, following in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            yield statement.target.id, " ".join(str(following.value.value).split())


class Structural:
    """Turns one model into a structural schema."""

    def __init__(self, root: type[BaseModel], *, defaults: bool = True) -> None:
        self.defaults = defaults
        self.docs = field_docs()
        self.schema = root.model_json_schema(by_alias=True)
        self.definitions: dict[str, Any] = self.schema.get("$defs", {})
        self.models = _models(root)

    def root(self) -> dict[str, Any]:
        """Return the whole structural schema."""
        return self._object(self.schema)

    def _object(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        model = self.models[schema["title"]]
        properties: dict[str, Any] = {}
        for name, field in model.model_fields.items():
            key = field.alias or name
            converted = self._value(schema["properties"][key])
            converted = {"description": self.docs[(_owner(model, name), name)]} | converted
            if self.defaults and field.default_factory is not None and converted.get("properties"):
                converted["default"] = {}
            if not self.defaults:
                converted.pop("default", None)
            properties[key] = converted
        out: dict[str, Any] = {"type": "object", "properties": properties}
        if required := schema.get("required"):
            out["required"] = list(required)
        return out

    def _value(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        if "x-kubernetes-int-or-string" in schema:
            return dict(schema)
        if "$ref" in schema:
            target = self.definitions[schema["$ref"].rpartition("/")[2]]
            return self._object(target) if "properties" in target else self._value(target)
        if "anyOf" in schema:
            (inner,) = [part for part in schema["anyOf"] if part.get("type") != "null"]
            return self._value(inner)
        if "type" not in schema:
            return {"x-kubernetes-preserve-unknown-fields": True}
        out: dict[str, Any] = {"type": schema["type"]}
        out |= {key: schema[key] for key in _KEPT if schema.get(key) is not None}
        for bound in ("Minimum", "Maximum"):
            if f"exclusive{bound}" in schema:
                out[bound.lower()] = schema[f"exclusive{bound}"]
                out[f"exclusive{bound}"] = True
        if out["type"] == "array":
            out["items"] = self._value(schema["items"])
            if "enum" in out["items"]:
                out["x-kubernetes-list-type"] = "set"
        if out["type"] == "object":
            out |= self._map(schema)
        return out

    def _map(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        values = schema.get("additionalProperties") or next(iter(schema.get("patternProperties", {}).values()))
        out: dict[str, Any] = {"additionalProperties": self._value(values)}
        if "maxProperties" in schema:
            out["maxProperties"] = schema["maxProperties"]
        return out


def _models(root: type[BaseModel]) -> dict[str, type[BaseModel]]:
    found: dict[str, type[BaseModel]] = {}
    for module in ("affinity", "job", "cluster", "model_data", "pod", "training"):
        found |= _classes(importlib.import_module(f"finetune_api.spec.{module}"))
    return found | _classes(status) | _classes(sweep) | {root.__name__: root}


def _classes(module: object) -> dict[str, type[BaseModel]]:
    return {
        name: value for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, BaseModel)
    }


def _owner(model: type[BaseModel], field: str) -> str:
    return next(base.__name__ for base in reversed(model.__mro__) if field in getattr(base, "__annotations__", {}))


def _add_rules(spec: dict[str, Any]) -> None:
    for rule in RULES:
        target = spec
        for part in rule.scope.removesuffix("[]").split(".") if rule.scope else []:
            target = target["properties"][part]
        if rule.scope:
            target = target["items"]
        entry = {"rule": rule.predicate.cel(), "message": f"{rule.message}. {rule.remedy}", "fieldPath": f".{rule.at}"}
        target.setdefault("x-kubernetes-validations", []).append(entry)


def crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition."""
    spec = Structural(FineTuneJobSpec).root()
    _add_rules(spec)
    # The API server would write a default of the status as if the operator had said it: an observedGeneration of 0 in a
    # condition makes `kubectl wait` wait for ever, since it reads the condition as older than the spec.
    told = Structural(status.FineTuneJobStatus, defaults=False).root()
    told["properties"]["conditions"] |= {
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    }
    schema: dict[str, Any] = {
        "type": "object",
        "description": "A fine-tuning job: the manifest that runs on this machine and on a cluster alike.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec | {"description": "What is wanted."},
            "status": told | {"description": "The truth about the job; the operator alone writes it."},
        },
        "x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in TRANSITIONS],
    }
    version = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "selectableFields": [{"jsonPath": ".spec.task"}, {"jsonPath": ".status.phase"}],
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path} | ({"priority": priority} if priority else {})
            for name, kind, path, priority in _COLUMNS
        ],
        "schema": {"openAPIV3Schema": schema},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": names.CRD_NAME},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.SINGULAR,
                "shortNames": [names.SHORT_NAME],
                "categories": [names.CATEGORY],
            },
            "versions": [version],
        },
    }


def reference(schema: Mapping[str, Any]) -> str:
    """Return the reference page: one row per field."""
    lines = [
        "# FineTuneJob reference",
        "",
        "Generated from the contract's models by `make generate`; do not edit.",
        "",
        "| field | type | default | meaning |",
        "|---|---|---|---|",
    ]
    properties = schema["properties"]
    lines += _rows(properties["spec"], "spec")
    lines += ["", "## Status", "", "| field | type | default | meaning |", "|---|---|---|---|"]
    lines += _rows(properties["status"], "status")
    lines += ["", "## Rules between fields", ""]
    lines += [f"- `{_rule_path(rule.scope, rule.at)}`: {rule.message}. {rule.remedy}" for rule in RULES]
    lines += [f"- {message}." for _, message in TRANSITIONS]
    return "\n".join(lines) + "\n"


def sweep_reference() -> str:
    """Return the reference page of sweeps, which no cluster knows yet."""
    head = "| field | type | default | meaning |\n|---|---|---|---|"
    told = Structural(sweep.FineTuneSweepStatus, defaults=False).root()
    lines = ["# FineTuneSweep reference", "", "Generated from the contract's models by `make generate`; do not edit."]
    lines += ["", head, *_rows(Structural(sweep.FineTuneSweepSpec).root(), "spec")]
    lines += ["", "## Status", "", "What `finetune sweep --output json` prints.", "", head, *_rows(told, "status")]
    return "\n".join(lines) + "\n"


def _rule_path(scope: str, at: str) -> str:
    return ".".join(part for part in ("spec", scope, at) if part)


def _rows(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    required = set(schema.get("required", ()))
    for name, field in schema["properties"].items():
        where = f"{path}.{name}"
        default = "required" if name in required else f"`{field['default']}`" if field.get("default") else ""
        kind = " \\| ".join(field["enum"]) if "enum" in field else field.get("type", "int or string")
        yield f"| `{where}` | {kind} | {default} | {field['description'].replace('|', chr(92) + '|')} |"
        if "properties" in field:
            yield from _rows(field, where)
        elif "properties" in field.get("items", {}):
            yield from _rows(field["items"], f"{where}[]")


def main() -> None:
    """Write the files."""
    document = crd()
    text = "# Generated from crds/finetune_api by `make generate`; do not edit.\n" + yaml.safe_dump(
        document, sort_keys=False, width=120, allow_unicode=False
    )
    if len(text) > MAX_CRD_BYTES:
        message = f"the CRD has {len(text)} bytes, at most {MAX_CRD_BYTES} fit; shorten descriptions"
        raise SystemExit(message)
    CRD_FILE.write_text(text, encoding="utf-8")
    REFERENCE_FILE.parent.mkdir(parents=True, exist_ok=True)
    schema = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    REFERENCE_FILE.write_text(reference(schema), encoding="utf-8")
    SWEEP_REFERENCE_FILE.write_text(sweep_reference(), encoding="utf-8")
    print(f"{CRD_FILE.name}: {len(text)} bytes")


if __name__ == "__main__":
    main()
