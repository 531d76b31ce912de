"""The method section of the contract: which type has which field, which form of artifact."""

from typing import Any, get_args

import pytest

from finetune_api.method_types import MERGED, METHOD_FIELDS, OWN_WEIGHTS
from finetune_api.spec import Method
from finetune_api.validation import InvalidSpec, validate_manifest
from support.manifests import changed

TYPES = get_args(Method.model_fields["type"].annotation)
VALUES: dict[str, Any] = {
    "rank": 8,
    "targetRank": 4,
    "alpha": 16,
    "dropout": 0.1,
    "targets": "query,layer.1",
    "ranks": {"layer.0": 4},
    "alphas": {"value": 8},
    "rslora": True,
    "dora": True,
    "init": "pissa",
    "rateRatio": 16,
    "size": 24,
    "placement": "pfeiffer",
    "virtualTokens": 10,
    "layers": 2,
    "layerDecay": 0.9,
    "unfreezeEvery": "0.5epoch",
}


def refused(method: dict[str, Any], **sections: Any) -> bool:
    try:
        validate_manifest(changed({"method": method, **sections}))
    except InvalidSpec:
        return True
    return False


def test_every_field_says_which_types_have_it_and_every_type_is_known():
    assert set(METHOD_FIELDS) == {field.alias for field in Method.model_fields.values()} - {"type"} == set(VALUES)
    assert {each for types in METHOD_FIELDS.values() for each in types} <= set(TYPES)
    assert set(OWN_WEIGHTS) | set(MERGED) <= set(TYPES)


@pytest.mark.parametrize("field", sorted(VALUES))
def test_a_field_is_legal_for_its_types_and_for_no_other(field: str):
    for kind in TYPES:
        assert refused({"type": kind, field: VALUES[field]}) == (kind not in METHOD_FIELDS[field]), kind


@pytest.mark.parametrize("kind", TYPES)
def test_each_type_has_its_forms_of_artifact(kind: str):
    legal = {form for form in ("adapter", "merged", "full") if not refused({"type": kind}, output={"formats": [form]})}

    expected = {"adapter"} if kind != "full" else set[str]()
    assert legal == expected | ({"merged"} if kind in MERGED else set()) | ({"full"} if kind in OWN_WEIGHTS else set())


def test_a_period_of_unfreezing_is_no_time_and_only_adamw_has_a_default_rate():
    assert refused({"type": "full", "unfreezeEvery": "5m"})
    assert refused({"type": "full"}, training={"optimizer": "lion"})
    assert not refused({"type": "full"}, training={"optimizer": "lion", "learningRate": 1e-4})
    assert refused({"type": "lora", "dora": True, "init": "olora"})
