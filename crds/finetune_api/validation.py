"""From a manifest in wire form to a FineTuneJob, or to every problem at once.

Each problem has a path, the rule, the value found and a remedy. Values are shortened and escaped, so that a hostile
manifest cannot write to a terminal or a log.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticUndefined

from finetune_api.names import API_VERSION
from finetune_api.rules import violations
from finetune_api.spec import FineTuneJob, FineTuneJobSpec
from finetune_api.spec.training import DEFAULT_EPOCHS

_MAX_FOUND = 120
_UNKNOWN = "extra_forbidden"
_MISSING = "missing"
Root = TypeVar("Root", bound=BaseModel)
_REMEDIES: Mapping[str, str] = {
    _MISSING: "Add it.",
    "literal_error": "Write one of these.",
    "int_type": "Write a whole number without quotes.",
    "float_type": "Write a number without quotes, such as 0.0002 or 2.0e-4.",
    "bool_type": "Write true or false without quotes.",
    "string_type": "Write a text; put a number or true/false in quotes.",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a manifest."""

    path: str
    rule: str
    found: str
    remedy: str
    unknown: bool = False
    """Whether it is a field that this version of the contract does not have: a newer one may."""

    def __str__(self) -> str:
        found = f", found {self.found}" if self.found else ""
        return f"{self.path}: {self.rule}{found}. {self.remedy}"


class InvalidSpec(ValueError):
    """The manifest breaks the contract; `problems` holds every one."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def validate_manifest(manifest: Mapping[str, Any]) -> FineTuneJob:
    """Check one manifest against the contract.

    Args:
        manifest: The object in wire form, as YAML or JSON gives it.

    Returns:
        The job with the schema's defaults.

    Raises:
        InvalidSpec: Something is wrong; every problem is named.
    """
    job, problems = parsed(FineTuneJob, manifest)
    spec: Any = job.spec.to_dict() if job else manifest.get("spec")
    if isinstance(spec, Mapping):
        if job is None:
            # What a model gives back has its defaults; a spec that is none gets them here.
            spec = with_defaults(FineTuneJobSpec, cast("Mapping[str, Any]", spec))
        broken = {problem.path for problem in problems}
        for path, rule, found in violations(spec):
            full = f"spec.{path}"
            if not any(touches(full, other) for other in broken):
                problems.append(Problem(full, rule.message, "" if found is None else show(found), rule.remedy))
    if problems or job is None:
        raise InvalidSpec(tuple(problems))
    return job


def parsed(root: type[Root], manifest: Mapping[str, Any]) -> tuple[Root | None, list[Problem]]:
    """Return an object of the contract, None when a field is wrong, and what is wrong with its fields."""
    status_free = {key: value for key, value in manifest.items() if key != "status"}
    try:
        return root.model_validate(status_free), []
    except ValidationError as error:
        return None, [_problem(details, root) for details in error.errors(include_url=False)]


def with_defaults(model: type[BaseModel], value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a wire object with the schema's defaults filled in, as the API server does before it checks the rules.

    A null counts as absent. Objects inside a list are filled in too, but an absent list or map stays absent.
    """
    filled = {key: each for key, each in value.items() if each is not None}
    for name, field in model.model_fields.items():
        key = field.alias or name
        nested = _object(field.annotation)
        if key not in filled and nested is not None and field.default_factory is not None:
            filled[key] = {}
        if key not in filled:
            if field.default is not PydanticUndefined and field.default is not None:
                filled[key] = field.default
        else:
            filled[key] = _filled(field.annotation, filled[key])
    if model.__name__ == "Training" and filled.get("maxSteps") is None and filled.get("epochs") is None:
        filled["epochs"] = DEFAULT_EPOCHS
    return filled


def _filled(annotation: Any, value: Any) -> Any:
    if isinstance(value, list):
        item = _item(annotation)
        return [_filled(item, each) for each in cast("list[Any]", value)] if item is not None else cast("Any", value)
    nested = _object(annotation)
    return with_defaults(nested, cast("Mapping[str, Any]", value)) if nested and isinstance(value, Mapping) else value


def show(value: Any) -> str:
    """Return a value as one short printable line; control and direction characters are escaped."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= _MAX_FOUND else f"{text[: _MAX_FOUND - 3]}..."


def touches(path: str, other: str) -> bool:
    """Tell whether one path is the other, or lies within it."""
    return path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.") or other == "spec"


def _problem(details: ErrorDetails, root: type[BaseModel]) -> Problem:
    kind = details["type"]
    path = _path(details["loc"])
    found = "" if kind == _MISSING else show(details["input"])
    if kind == _UNKNOWN:
        return Problem(path, "this field does not exist", found, _suggest(details["loc"], root), unknown=True)
    if path == "apiVersion":
        return Problem(path, f"must be {API_VERSION}", found, f"Write apiVersion: {API_VERSION}.")
    if path == "kind":
        return Problem(path, f"must be {root.__name__}", found, f"Write kind: {root.__name__}.")
    message = details["msg"].removeprefix("Value error, ")
    rule = "required" if kind == _MISSING else message[0].lower() + message[1:]
    remedy = _REMEDIES.get(kind, "Change it so that the rule holds.")
    return Problem(path, rule, found, remedy)


def _path(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "[key]":
            text += f".{_printable(part)}" if text else _printable(part)
    return text or "manifest"


def _printable(part: str) -> str:
    return part if part.isascii() and part.isprintable() else ascii(part)


def _suggest(location: tuple[int | str, ...], root: type[BaseModel]) -> str:
    model: Any = root
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        field = next((f for n, f in model.model_fields.items() if part in {f.alias, n}), None)
        nested = _nested(field.annotation) if field else None
        if nested is None:
            return "Remove it."
        model = nested
    names = [field.alias or name for name, field in model.model_fields.items()]
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"Remove it; did you mean {close[0]}?" if close else f"Remove it; known here: {', '.join(names)}."


def _nested(annotation: Any) -> type[BaseModel] | None:
    return _object(annotation) or _object(_item(annotation))


def _object(annotation: Any) -> type[BaseModel] | None:
    """Return the model that a field holds; None for a list of models."""
    for each in (annotation, *_alternatives(annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def _item(annotation: Any) -> Any:
    """Return what a list field lists; None when it is no list."""
    lists = (each for each in (annotation, *_alternatives(annotation)) if get_origin(each) is list)
    return next((get_args(each)[0] for each in lists), None)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in {Annotated, Union, UnionType} else ()
