"""The shape of the record: a fault, its tests, and the edits that take away what protects from it."""

from dataclasses import dataclass

OPERATOR = "operator/finetune_operator"


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One layer of a protection, and how it is taken away."""

    file: str
    text: str
    """Stands exactly once in the file."""
    replacement: str
    why: str
    """What the text protects from."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault, or one half of it: `f35-shapes`."""

    fault: str
    tests: tuple[str, ...]
    """pytest's node ids; each must fail by an assertion of its own."""
    edits: tuple[Edit, ...]
    """Layers of one protection are removed together."""
    own_cluster: bool = False
    """Whether the edits change what all rows share, such as the definition."""
