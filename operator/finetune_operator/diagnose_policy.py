"""The Job's podFailurePolicy, and what its match says in the Job's condition.

One home for both: the rule's index outlives the pod, which may be gone within a second of its end. Every rule fails the
Job, as backoffLimit 0 would; the rules exist so that the condition names the pod, its exit code and the class. Pure.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, Literal

from finetune_api.exit_codes import Disposition, Reason, disposition, exit_code
from finetune_api.names import TRAINER_CONTAINER

DISRUPTION_TARGET: Final = "DisruptionTarget"
SIGKILL_EXIT: Final = 137
SIGTERM_EXIT: Final = 143


@dataclass(frozen=True, slots=True)
class FailureRule:
    """One rule; its place in POD_FAILURE_RULES is its index in the Job's condition."""

    about: str
    fallback: Reason
    """What is said when nothing but the index is known."""
    operator: Literal["In", "NotIn", "Condition"]
    exit_codes: tuple[int, ...] = ()
    """Sorted and unique, as the API server demands; empty for the rule on the pod's condition."""

    def to_dict(self) -> dict[str, Any]:
        """Return the rule as the API has it."""
        if self.operator == "Condition":
            return {"action": "FailJob", "onPodConditions": [{"type": DISRUPTION_TARGET, "status": "True"}]}
        codes = {"containerName": TRAINER_CONTAINER, "operator": self.operator, "values": list(self.exit_codes)}
        return {"action": "FailJob", "onExitCodes": codes}


def _codes(kind: Disposition, *others: int) -> tuple[int, ...]:
    return tuple(sorted({exit_code(reason) for reason in Reason if disposition(reason) is kind} | set(others)))


_USER: Final = _codes(Disposition.USER_MUST_FIX)
_ADAPT: Final = _codes(Disposition.ADAPT_AND_RETRY)
_RETRY: Final = _codes(Disposition.RETRY, SIGKILL_EXIT, SIGTERM_EXIT)
_LIMIT: Final = _codes(Disposition.LIMIT)

POD_FAILURE_RULES: Final = (
    # First: an evicted trainer also leaves an exit code, and that one would hide the eviction.
    FailureRule("disruption", Reason.EVICTED, "Condition"),
    FailureRule("user", Reason.CONFIG_ERROR, "In", _USER),
    FailureRule("adapt", Reason.HOST_OUT_OF_MEMORY, "In", _ADAPT),
    FailureRule("retry", Reason.UNKNOWN, "In", _RETRY),
    FailureRule("limit", Reason.DEADLINE_EXCEEDED, "In", _LIMIT),
    # Without it a code of nobody's is told by BackoffLimitExceeded alone, without pod and code.
    FailureRule("other", Reason.UNKNOWN, "NotIn", tuple(sorted({*_USER, *_ADAPT, *_RETRY, *_LIMIT}))),
)
"""In the order in which the Job controller tries them on a failed pod."""


_POLICY: Final[dict[str, Any]] = {"rules": [rule.to_dict() for rule in POD_FAILURE_RULES]}


def pod_failure_policy() -> dict[str, Any]:
    """Return spec.podFailurePolicy of a Job; every Job shares it, so send it and do not change it."""
    return _POLICY


@dataclass(frozen=True, slots=True)
class RuleMatch:
    """What the Job controller says about the pod that made it fail the Job."""

    pod: str
    """Name of the pod; empty when the text did not have the known form."""
    exit_code: int | None
    """None for the rule on the pod's condition."""
    rule: FailureRule | None
    """None for an index that this version does not have."""

    @property
    def index(self) -> int | None:
        """The completion index that the name of an indexed Job's pod carries."""
        found = _POD_INDEX.search(self.pod)
        return int(found[1]) if found else None


# pkg/controller/job/pod_failure_policy.go
_BY_EXIT_CODE = re.compile(
    r"Container \S+ for pod [^/\s]+/(?P<pod>\S+) failed with exit code (?P<code>-?\d{1,10}) matching FailJob rule"
)
_BY_CONDITION = re.compile(r"Pod [^/\s]+/(?P<pod>\S+) has condition \S+ matching FailJob rule")
_RULE_INDEX = re.compile(r"rule at index (\d{1,3})")
_POD_INDEX = re.compile(r"-(\d{1,6})-[a-z0-9]{5}$")


def rule_match(message: str) -> RuleMatch | None:
    """Read the message of a Job condition whose reason is PodFailurePolicy.

    Args:
        message: The condition's message, in the Job controller's words.

    Returns:
        What it says, or None when it names no rule.
    """
    index = _RULE_INDEX.search(message)
    if index is None:
        return None
    number = int(index[1])
    rule = POD_FAILURE_RULES[number] if number < len(POD_FAILURE_RULES) else None
    by_code = _BY_EXIT_CODE.match(message)
    if by_code:
        return RuleMatch(by_code["pod"], int(by_code["code"]), rule)
    by_condition = _BY_CONDITION.match(message)
    return RuleMatch(by_condition["pod"] if by_condition else "", None, rule)
