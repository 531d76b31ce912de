"""Read a manifest as kubectl does: YAML to JSON, then the contract.

PyYAML follows YAML 1.1, where `2e-4` is a text and a date is an object; kubectl (sigs.k8s.io/yaml) reads a number and a
text. The same manifest must mean the same here and there, so these rules are corrected. A key that stands twice is
refused, as kubectl refuses it.
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from finetune_api.spec import FineTuneJob
from finetune_api.validation import InvalidSpec, Problem, validate_manifest

_FLOAT = re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")
_FLOAT_TAG, _TIME_TAG = "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"
_SET = re.compile(r"^([A-Za-z][A-Za-z0-9]*(?:\.[A-Za-z][A-Za-z0-9]*)*)=(.*)$", re.DOTALL)


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes' tools read it."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(getattr(key, "value", key))
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} stands twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


# Numbers with an exponent are numbers; dates stay texts, since JSON has none.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag not in {_FLOAT_TAG, _TIME_TAG}]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+.0123456789"))


def load_job(file: Path, overrides: Sequence[str]) -> FineTuneJob:
    """Read and check a manifest.

    Args:
        file: YAML or JSON, one FineTuneJob.
        overrides: `path=value` below spec, values in YAML.

    Returns:
        The job.

    Raises:
        InvalidSpec: The file cannot be read or breaks the contract; every problem is named.
    """  # noqa: DOC503
    try:
        documents: list[Any] = [
            each for each in yaml.load_all(file.read_text(encoding="utf-8"), Loader=_Loader) if each is not None
        ]
    except FileNotFoundError as error:
        raise _invalid(str(file), "there is no such file", "Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise _invalid(str(file), f"not readable as YAML ({_one_line(error)})", "Correct the file.") from error
    if len(documents) != 1 or not isinstance(documents[0], Mapping):
        raise _invalid(str(file), f"must hold one FineTuneJob, found {len(documents)} documents", "Keep one.")
    manifest = cast("dict[str, Any]", documents[0])
    for override in overrides:
        _set(manifest, override)
    return validate_manifest(manifest)


def _set(manifest: dict[str, Any], override: str) -> None:
    match = _SET.match(override)
    if match is None:
        raise _invalid("--set", f"{override!r} is not path=value", "Write --set training.epochs=1.")
    path, text = match.groups()
    parts = path.removeprefix("spec.").split(".")
    target: dict[str, Any] = manifest.setdefault("spec", {})
    for part in parts[:-1]:
        inner = target.setdefault(part, {})
        if not isinstance(inner, dict):
            raise _invalid("--set", f"{path}: {part} is no section", "Correct the path.")
        target = cast("dict[str, Any]", inner)
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise _invalid("--set", f"{path}: {_one_line(error)}", "Quote the value.") from error
    if value is None:
        target.pop(parts[-1], None)
    else:
        target[parts[-1]] = value


def _invalid(path: str, rule: str, remedy: str) -> InvalidSpec:
    return InvalidSpec((Problem(path, rule, "", remedy),))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
