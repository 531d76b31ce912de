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

from finetune_api.names import KIND, SWEEP_KIND
from finetune_api.spec import FineTuneJob
from finetune_api.sweep import FineTuneSweep
from finetune_api.sweep_space import validate_sweep
from finetune_api.validation import InvalidSpec, Problem, validate_manifest

_FLOAT = re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")
_FLOAT_TAG, _TIME_TAG = "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"
_COMMANDS = {KIND: "finetune run or submit", SWEEP_KIND: "finetune sweep"}
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
    """Read and check the manifest of a job.

    Args:
        file: YAML or JSON, one FineTuneJob.
        overrides: `path=value` below spec, values in YAML.

    Returns:
        The job.

    Raises:
        InvalidSpec: The file cannot be read or breaks the contract; every problem is named.
    """  # noqa: DOC502
    return validate_manifest(_of_kind(KIND, load(file, overrides)))


def load_sweep(file: Path, overrides: Sequence[str]) -> FineTuneSweep:
    """Read and check the manifest of a sweep, as `load_job` does a job's."""
    return validate_sweep(_of_kind(SWEEP_KIND, load(file, overrides)))


def _of_kind(wanted: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest; one of the other kind has another command."""
    kind = manifest.get("kind")
    if kind != wanted and kind in _COMMANDS:
        raise InvalidSpec((Problem("kind", f"this command reads a {wanted}", str(kind), f"Use {_COMMANDS[kind]}."),))
    return manifest


def load(file: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Read a manifest of either kind, unchecked.

    Args:
        file: YAML or JSON, one object.
        overrides: `path=value` below spec, values in YAML.

    Returns:
        The object in wire form.

    Raises:
        InvalidSpec: The file cannot be read.
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
        raise _invalid(str(file), f"must hold one object, found {len(documents)} documents", "Keep one.")
    manifest = cast("dict[str, Any]", documents[0])
    for override in overrides:
        _set(manifest, override)
    return manifest


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
