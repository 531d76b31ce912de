"""A sweep is refused before anything starts, with path, rule, found and remedy, when any of its corners is illegal."""

from typing import Any

import pytest

from finetune_api.sweep_space import corners, trial_manifest, validate_sweep
from finetune_api.validation import InvalidSpec, validate_manifest
from support.sweeps import JOB, PARAMETERS, sweep_manifest

RANK = {"path": "method.rank", "type": "choice", "values": [4]}
RATE = PARAMETERS[0]
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a value that the job's contract refuses": (
        {"parameters": [{"path": "method.rank", "type": "int", "min": 0, "max": 8}]},
        "spec.parameters[0] (method.rank): input should be greater than or equal to 1, found 0.",
    ),
    "values that exclude each other": (
        {"parameters": [RANK, {"path": "method.type", "type": "choice", "values": ["lora", "full"]}]},
        'spec.parameters[0] (method.rank): only for method.type lora or adalora, when method.type is "full", found 4. ',
    ),
    "a field that does not exist": (
        {"parameters": [{"path": "method.rnk", "type": "choice", "values": [4]}]},
        "spec.parameters[0] (method.rnk): this field does not exist, found 4. Remove it; did you mean rank?",
    ),
    "a field outside what trials may vary": (
        {"parameters": [{"path": "workers.nodes", "type": "choice", "values": [1]}]},
        "spec.parameters[0].path: string should match pattern",
    ),
    "one field twice": (
        {"parameters": [RANK, {"path": "method", "type": "choice", "values": [{"type": "ia3"}]}]},
        "spec.parameters[1].path: sets the same field as method.rank, found method. Keep one of them.",
    ),
    "a range without an end": (
        {"parameters": [{"path": "training.warmup", "type": "uniform", "min": 0.1}]},
        "spec.parameters[0].max: required for type uniform. Add it.",
    ),
    "a choice with an end": (
        {"parameters": [{**RANK, "min": 4}]},
        "spec.parameters[0].min: only for type uniform, loguniform or int, found 4.0.",
    ),
    "a range upside down": (
        {"parameters": [{"path": "training.warmup", "type": "uniform", "min": 0.1, "max": 0.1}]},
        "spec.parameters[0].max: must be greater than min 0.1, found 0.1. Raise it.",
    ),
    "the logarithm of zero": (
        {"parameters": [{**RATE, "min": 0}]},
        "spec.parameters[0].min: must be greater than 0 for type loguniform, found 0. Raise it.",
    ),
    "half a whole number": (
        {"parameters": [{"path": "method.rank", "type": "int", "min": 1, "max": 2.5}]},
        "spec.parameters[0].max: must be a whole number for type int, found 2.5. Round it.",
    ),
    "a grid of a range": (
        {"algorithm": {"type": "grid"}},
        "spec.parameters[0].type: a grid needs values that can be counted, found loguniform.",
    ),
    "nothing to compare on": (
        {"template": {"spec": {**JOB, "data": {"train": {"uri": "file://rows.csv"}}}}},
        "spec.template.spec.data.validation: required: trials are compared on these rows.",
    ),
    "one place for all artifacts": (
        {"template": {"spec": {**JOB, "output": {"uri": "file://out"}}}},
        "spec.template.spec.output.uri: must be absent: each trial hands over below the sweep's own folder, found",
    ),
    "a template that no parameter mends": (
        {"template": {"spec": {**JOB, "trainin": {}}}},
        "spec.template.spec.trainin: this field does not exist, found {}. Remove it; did you mean training?",
    ),
    "too many corners to check": (
        {"parameters": [{**RANK, "values": list(range(1, 42))}, {**RATE, "type": "choice", "values": [0.1] * 25}]},
        "found 1025. List fewer values, or give ranges.",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_searched_is_refused_with_its_place_and_remedy(what: str):
    changes, told = BAD[what]
    with pytest.raises(InvalidSpec) as refused:
        validate_sweep(sweep_manifest(**changes))

    assert [str(each) for each in refused.value.problems if told in str(each)], refused.value


def test_a_template_may_lack_what_the_parameters_give_and_null_leaves_a_field_out():
    job = {key: each for key, each in JOB.items() if key != "method"} | {"training": {"optimizer": "sgd"}}
    parameters = [
        {"path": "method", "type": "choice", "values": [{"type": "ia3"}, {"type": "full"}]},
        {"path": "training.learningRate", "type": "loguniform", "min": 0.001, "max": 0.1},
        {"path": "training.dropout", "type": "choice", "values": [None, 0.1]},
    ]
    sweep = validate_sweep(sweep_manifest(job, parameters=parameters))
    jobs = [validate_manifest(trial_manifest(sweep, 0, values)).spec for values in corners(sweep.spec)]

    assert [(each.method.type, each.training.learning_rate, each.training.dropout) for each in jobs] == [
        (method, rate, dropout) for method in ("ia3", "full") for rate in (0.001, 0.1) for dropout in (None, 0.1)
    ]
    assert sweep.spec.template.spec == job
