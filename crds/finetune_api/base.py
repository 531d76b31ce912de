"""The common ground of the contract's models: frozen, closed, camelCase on the wire.

Unknown fields are refused and nothing is converted (`"32"` is not 32), as the API server does it.
"""

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

DNS_LABEL_PATTERN = r"^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?$"
DNS_NAME_PATTERN = r"^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*$"
QUANTITY_PATTERN = r"^[0-9]{1,15}(?:\.[0-9]{1,9})?(?:m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
_QUALIFIED = r"^(?:[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?$"


class Contract(BaseModel):
    """A value of the contract: immutable, without unknown fields."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        allow_inf_nan=False,
    )

    def to_dict(self) -> dict[str, Any]:
        """Return the wire form: camelCase names, JSON values, nothing that is absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _number_to_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _without_repeats(values: list[Any]) -> list[Any]:
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"names {', '.join(repeated)} more than once")
    return values


Unique = AfterValidator(_without_repeats)
"""Refuse a list that names a value twice; `x-kubernetes-list-type: set` in the CRD."""

DnsLabel = Annotated[str, Field(max_length=63, pattern=DNS_LABEL_PATTERN)]
DnsName = Annotated[str, Field(max_length=253, pattern=DNS_NAME_PATTERN)]
QualifiedName = Annotated[str, Field(max_length=317, pattern=_QUALIFIED)]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
Quantity = Annotated[
    str,
    BeforeValidator(_number_to_text),
    Field(max_length=32, pattern=QUANTITY_PATTERN),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 32,
            "pattern": QUANTITY_PATTERN,
        }
    ),
]
Labels = Annotated[dict[QualifiedName, LabelValue], Field(max_length=64)]
Annotations = Annotated[dict[QualifiedName, Annotated[str, Field(max_length=4096)]], Field(max_length=64)]
MetricName = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
