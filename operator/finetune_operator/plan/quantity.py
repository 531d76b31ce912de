"""Kubernetes quantities, as far as the contract allows them."""

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Final

GI: Final = 1024**3
_MI: Final = 1024**2
_SUFFIXES: Final[Mapping[str, Decimal]] = MappingProxyType(
    {
        "Ki": Decimal(1024),
        "Mi": Decimal(1024**2),
        "Gi": Decimal(1024**3),
        "Ti": Decimal(1024**4),
        "Pi": Decimal(1024**5),
        "Ei": Decimal(1024**6),
        "m": Decimal("0.001"),
        "k": Decimal(10**3),
        "M": Decimal(10**6),
        "G": Decimal(10**9),
        "T": Decimal(10**12),
        "P": Decimal(10**15),
        "E": Decimal(10**18),
    }
)


def amount(text: str) -> Decimal:
    """Return a quantity in its unit: bytes, cores or pieces."""
    for suffix, factor in _SUFFIXES.items():
        if text.endswith(suffix):
            return Decimal(text.removesuffix(suffix)) * factor
    return Decimal(text)


def mebibytes(size_bytes: int) -> str:
    """Return a size as a quantity in whole MiB, at least one."""
    return f"{max(1, size_bytes // _MI)}Mi"
