"""Conditions on a manifest that can be evaluated in Python and printed as CEL: one value, two readers.

A field that is absent makes every comparison with it false, in both.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Wire = Mapping[str, Any]


class Predicate(Protocol):
    """A condition on one object in wire form."""

    def holds(self, value: Wire) -> bool:
        """Tell whether it holds."""
        ...

    def cel(self) -> str:
        """Return the same condition as a CEL expression over `self`."""
        ...

    def paths(self) -> Iterator[str]:
        """Yield the dotted paths that it reads."""
        ...


def lookup(value: Any, path: str) -> Any:
    """Return what stands at a dotted path, None when any part is absent or no object."""
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _present(path: str) -> str:
    parts = path.split(".")
    return " && ".join(f"has(self.{'.'.join(parts[: end + 1])})" for end in range(len(parts)))


def _literal(value: str | float) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "'" + value.replace("'", "\\'") + "'" if isinstance(value, str) else str(value)


@dataclass(frozen=True, slots=True)
class Has:
    """The field is present."""

    path: str

    def holds(self, value: Wire) -> bool:
        return lookup(value, self.path) is not None

    def cel(self) -> str:
        return f"({_present(self.path)})"

    def paths(self) -> Iterator[str]:
        yield self.path


@dataclass(frozen=True, slots=True)
class In:
    """The field is present and one of the values."""

    path: str
    values: tuple[str | int | float, ...]

    def holds(self, value: Wire) -> bool:
        return lookup(value, self.path) in self.values

    def cel(self) -> str:
        return f"({_present(self.path)} && self.{self.path} in [{', '.join(_literal(v) for v in self.values)}])"

    def paths(self) -> Iterator[str]:
        yield self.path


@dataclass(frozen=True, slots=True)
class StartsWith:
    """The text is present and starts with one of the prefixes."""

    path: str
    prefixes: tuple[str, ...]

    def holds(self, value: Wire) -> bool:
        found = lookup(value, self.path)
        return isinstance(found, str) and found.startswith(self.prefixes)

    def cel(self) -> str:
        each = " || ".join(f"self.{self.path}.startsWith({_literal(prefix)})" for prefix in self.prefixes)
        return f"({_present(self.path)} && ({each}))"

    def paths(self) -> Iterator[str]:
        yield self.path


@dataclass(frozen=True, slots=True)
class Contains:
    """The list is present and holds one of the values."""

    path: str
    values: tuple[str, ...]

    def holds(self, value: Wire) -> bool:
        found = lookup(value, self.path)
        return isinstance(found, list) and any(each in found for each in self.values)

    def cel(self) -> str:
        listed = ", ".join(_literal(each) for each in self.values)
        return f"({_present(self.path)} && self.{self.path}.exists(each, each in [{listed}]))"

    def paths(self) -> Iterator[str]:
        yield self.path


@dataclass(frozen=True, slots=True)
class KeysIn:
    """Every key of the map is one of the names; an absent map has none."""

    path: str
    names: tuple[str, ...]

    def holds(self, value: Wire) -> bool:
        found = lookup(value, self.path)
        return not isinstance(found, Mapping) or all(key in self.names for key in found)

    def cel(self) -> str:
        listed = ", ".join(_literal(name) for name in self.names)
        return f"(!({_present(self.path)}) || self.{self.path}.all(key, key in [{listed}]))"

    def paths(self) -> Iterator[str]:
        yield self.path


@dataclass(frozen=True, slots=True)
class NoKeyStartsWith:
    """No key of the map starts with the prefix."""

    path: str
    prefix: str

    def holds(self, value: Wire) -> bool:
        found = lookup(value, self.path)
        return not isinstance(found, Mapping) or not any(str(key).startswith(self.prefix) for key in found)

    def cel(self) -> str:
        return f"(!({_present(self.path)}) || self.{self.path}.all(key, !key.startsWith({_literal(self.prefix)})))"

    def paths(self) -> Iterator[str]:
        yield self.path


@dataclass(frozen=True, slots=True)
class Not:
    """The condition does not hold."""

    inner: Predicate

    def holds(self, value: Wire) -> bool:
        return not self.inner.holds(value)

    def cel(self) -> str:
        return f"!{self.inner.cel()}"

    def paths(self) -> Iterator[str]:
        yield from self.inner.paths()


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one condition holds."""

    parts: tuple[Predicate, ...]

    def holds(self, value: Wire) -> bool:
        return any(part.holds(value) for part in self.parts)

    def cel(self) -> str:
        return "(" + " || ".join(part.cel() for part in self.parts) + ")"

    def paths(self) -> Iterator[str]:
        for part in self.parts:
            yield from part.paths()


@dataclass(frozen=True, slots=True)
class ExactlyOne:
    """One of the fields is present and the others are not."""

    fields: tuple[str, ...]

    def holds(self, value: Wire) -> bool:
        return sum(lookup(value, path) is not None for path in self.fields) == 1

    def cel(self) -> str:
        return "(" + " + ".join(f"({_present(path)} ? 1 : 0)" for path in self.fields) + " == 1)"

    def paths(self) -> Iterator[str]:
        yield from self.fields
