"""From a sweep to the jobs of its trials, and to every problem of a sweep before anything starts.

A sweep is checked at the corners of its space: each combination of listed values and of the ends of ranges is set in
the template and checked as a FineTuneJob. What lies between the ends of a range obeys the same rules, since these bound
numbers from one side or from both.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import JsonValue

from finetune_api.names import API_VERSION, KIND
from finetune_api.sweep import FineTuneSweep, FineTuneSweepSpec, Parameter
from finetune_api.validation import InvalidSpec, Problem, parsed, show, touches, validate_manifest

MAX_CORNERS: Final = 1024
_TEMPLATE: Final = "spec.template.spec"
_RANGE: Final = "uniform, loguniform or int"
Values = Mapping[str, JsonValue]
"""What a trial sets: path below the job's spec to value; None leaves the field out."""


def validate_sweep(manifest: Mapping[str, Any]) -> FineTuneSweep:
    """Check one sweep, with the jobs at the corners of its space.

    Args:
        manifest: The object in wire form, as YAML or JSON gives it.

    Returns:
        The sweep with the schema's defaults.

    Raises:
        InvalidSpec: Something is wrong; every problem is named.
    """
    sweep, problems = parsed(FineTuneSweep, manifest)
    if sweep is None:
        raise InvalidSpec(tuple(problems))
    problems = [*_parameter_problems(sweep.spec), *_template_problems(sweep.spec)]
    problems = problems or _corner_problems(sweep)
    if problems:
        raise InvalidSpec(tuple(problems))
    return sweep


def trial_manifest(sweep: FineTuneSweep, number: int, values: Values) -> dict[str, Any]:
    """Return the FineTuneJob of a trial, in wire form."""
    metadata = {"name": f"{sweep.metadata.name}-{number}", "namespace": sweep.metadata.namespace}
    spec = sweep.spec.template.spec
    for path, value in values.items():
        spec = _with(spec, path.split("."), value)
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def corners(spec: FineTuneSweepSpec) -> Iterator[dict[str, JsonValue]]:
    """Yield each combination of listed values and ends of ranges."""
    paths = [each.path for each in spec.parameters]
    for values in itertools.product(*(_ends(each) for each in spec.parameters)):
        yield dict(zip(paths, values, strict=True))


def grid_size(spec: FineTuneSweepSpec) -> int:
    """Return the number of points of a grid."""
    return math.prod(_count(each) for each in spec.parameters)


def grid_point(spec: FineTuneSweepSpec, number: int) -> dict[str, JsonValue]:
    """Return a point of a grid, counted from 0; the last parameter changes first."""
    found: dict[str, JsonValue] = {}
    for each in reversed(spec.parameters):
        number, index = divmod(number, _count(each))
        found[each.path] = each.values[index] if each.values is not None else int(each.min or 0) + index
    return {each.path: found[each.path] for each in spec.parameters}


def _count(parameter: Parameter) -> int:
    if parameter.values is not None:
        return len(parameter.values)
    return int(parameter.max or 0) - int(parameter.min or 0) + 1


def _with(spec: dict[str, JsonValue], path: Sequence[str], value: JsonValue) -> dict[str, JsonValue]:
    """Return a copy with one field set; what should be a section and is none stays, for the check to find."""
    name, *rest = path
    if not rest:
        kept = {key: each for key, each in spec.items() if key != name}
        return kept if value is None else {**kept, name: value}
    section = spec.get(name) or {}
    return {**spec, name: _with(section, rest, value)} if isinstance(section, dict) else spec


def _parameter_problems(spec: FineTuneSweepSpec) -> Iterator[Problem]:
    for index, each in enumerate(spec.parameters):
        where = f"spec.parameters[{index}]"
        yield from _legal(each, where)
        if spec.algorithm.type == "grid" and each.type in {"uniform", "loguniform"}:
            remedy = "List values with type: choice, or set algorithm.type: random or tpe."
            yield Problem(f"{where}.type", "a grid needs values that can be counted", each.type, remedy)
        for other in spec.parameters[:index]:
            if touches(each.path, other.path):
                rule = f"sets the same field as {other.path}"
                yield Problem(f"{where}.path", rule, each.path, "Keep one of them.")


def _legal(parameter: Parameter, where: str) -> Iterator[Problem]:
    choice = parameter.type == "choice"
    for name, wanted in (("values", choice), ("min", not choice), ("max", not choice)):
        found = getattr(parameter, name)
        kind = "choice" if name == "values" else _RANGE
        if wanted and found is None:
            yield Problem(f"{where}.{name}", f"required for type {parameter.type}", "", "Add it.")
        if not wanted and found is not None:
            yield Problem(f"{where}.{name}", f"only for type {kind}", show(found), f"Remove it, or set type: {kind}.")
    low, high = parameter.min, parameter.max
    if choice or low is None or high is None:
        return
    if low >= high:
        yield Problem(f"{where}.max", f"must be greater than min {low:g}", f"{high:g}", "Raise it.")
    if parameter.type == "loguniform" and low <= 0:
        yield Problem(f"{where}.min", "must be greater than 0 for type loguniform", f"{low:g}", "Raise it.")
    for name, bound in (("min", low), ("max", high)):
        if parameter.type == "int" and not bound.is_integer():
            yield Problem(f"{where}.{name}", "must be a whole number for type int", f"{bound:g}", "Round it.")


def _template_problems(spec: FineTuneSweepSpec) -> Iterator[Problem]:
    template = spec.template.spec
    data, output = template.get("data"), template.get("output")
    if isinstance(data, dict) and data.get("validation") is None:
        remedy = "Add it, such as validation: {fraction: 0.1}."
        yield Problem(f"{_TEMPLATE}.data.validation", "required: trials are compared on these rows", "", remedy)
    if isinstance(output, dict) and output.get("uri") is not None:
        rule = "must be absent: each trial hands over below the sweep's own folder"
        yield Problem(f"{_TEMPLATE}.output.uri", rule, show(output["uri"]), "Remove it.")
    count = math.prod(len(_ends(each)) for each in spec.parameters)
    if count > MAX_CORNERS:
        rule = (
            f"must have at most {MAX_CORNERS} combinations of listed values and ends of ranges, which are all checked"
        )
        yield Problem("spec.parameters", rule, str(count), "List fewer values, or give ranges.")


def _ends(parameter: Parameter) -> Sequence[JsonValue]:
    if parameter.values is not None:
        return parameter.values
    whole = int if parameter.type == "int" else float
    return [whole(each) for each in (parameter.min, parameter.max) if each is not None]


def _corner_problems(sweep: FineTuneSweep) -> list[Problem]:
    """Return each problem of any corner once; one that not all corners have says at which it was found."""
    every = list(corners(sweep.spec))
    found: dict[tuple[str, str, str], tuple[Problem, Values]] = {}
    seen: dict[tuple[str, str, str], int] = {}
    for values in every:
        try:
            validate_manifest(trial_manifest(sweep, sweep.spec.trials, values))
        except InvalidSpec as error:
            for problem in error.problems:
                key = (problem.path, problem.rule, problem.found)
                found.setdefault(key, (problem, values))
                seen[key] = seen.get(key, 0) + 1
    return [
        _at(problem, sweep.spec.parameters, values if seen[key] < len(every) else {})
        for key, (problem, values) in found.items()
    ]


def _at(problem: Problem, parameters: Sequence[Parameter], values: Values) -> Problem:
    """Return a job's problem as the sweep's: at the parameter that sets the field, else in the template."""
    path = problem.path.removeprefix("spec.")
    own = (index for index, each in enumerate(parameters) if path == each.path or path.startswith(f"{each.path}."))
    index = next(own, None)
    where = f"spec.template.{problem.path}" if index is None else f"spec.parameters[{index}] ({path})"
    if not problem.path.startswith("spec"):
        where = problem.path
    others = [f"{name} is {show(value)}" for name, value in values.items() if name != path]
    rule = f"{problem.rule}, when {' and '.join(others)}" if others else problem.rule
    return Problem(where, rule, problem.found, problem.remedy)
