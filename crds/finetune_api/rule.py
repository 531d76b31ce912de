"""One rule between fields, and the three forms that most rules have."""

from dataclasses import dataclass

from finetune_api.predicates import AnyOf, Has, In, Not, Predicate


def when(condition: Predicate, then: Predicate) -> AnyOf:
    """Return the predicate that one holds wherever the other does."""
    return AnyOf((Not(condition), then))


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule between fields. `at` and `scope` are paths below the spec; `[]` stands for every element of a list."""

    at: str
    """Whose problem it is, from the scope on."""
    predicate: Predicate
    """What must hold of the scope."""
    message: str
    """What must hold, in words."""
    remedy: str
    """What to do about it."""
    scope: str = ""
    """The object that the predicate reads; empty for the spec itself."""


def only_for(field: str, key: str, *values: str) -> Rule:
    """Return the rule that a field is there for some values of another one alone."""
    told = " or ".join(values)
    return Rule(field, when(Has(field), In(key, values)), f"only for {key} {told}", f"Remove it, or set {key}: {told}.")


def exclude(section: str, first: str, second: str, blamed: str) -> Rule:
    """Return the rule that a section has one of two fields at most; one of them is told to be the problem."""
    neither_or_one = AnyOf((Not(Has(f"{section}.{first}")), Not(Has(f"{section}.{second}"))))
    return Rule(f"{section}.{blamed}", neither_or_one, f"{first} and {second} exclude each other", "Keep one of them.")
