"""From what is left of a gang to the one reason why it ended.

Every source gives a clue, the clue nearest to the cause wins, and the answer is always of the closed list: what nothing
explains is Unknown, and the message says where was looked. Messages name pod, rank and exit code; text that a container
wrote is escaped and bounded. Pure: no clock, no cluster.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from finetune_api.exit_codes import Reason, exit_code, reason_of, retryable
from finetune_api.result import Failure, Result
from finetune_operator.diagnose_clues import Clue, Standing, disruption_clue, pod_clue, waiting_clue
from finetune_operator.diagnose_exits import code_clue, exit_clue, read_result
from finetune_operator.diagnose_policy import POD_FAILURE_RULES, RuleMatch, pod_failure_policy, rule_match
from finetune_operator.diagnose_remedies import REMEDIES
from finetune_operator.diagnose_text import MAX_TEXT, clean
from finetune_operator.diagnose_waiting import Waiting, waiting
from finetune_operator.observe import JobCondition, JobFacts, PodFacts

__all__ = ["POD_FAILURE_RULES", "Waiting", "diagnose", "final_result", "pod_failure_policy", "waiting"]

_PODS_TOLD: Final = 8
_MAX_NAME: Final = 253
_MAX_EXIT_CODE: Final = 255


def diagnose(job: JobFacts, pods: Sequence[PodFacts], last_heartbeat: str = "") -> Failure:
    """Tell why a gang ended.

    Args:
        job: A Job with Failed or FailureTarget, or one whose pods are going.
        pods: Its pods that were seen, any number.
        last_heartbeat: When the trainer last reported, as text; empty for unknown.

    Returns:
        The first cause. `exit_code` is the container's own when it is known, else the reason's. `rank` is the one that
        the trainer named, else the pod's completion index.
    """
    condition = job.condition("Failed") or job.condition("FailureTarget")
    match = rule_match(condition.message) if condition is not None and condition.reason == "PodFailurePolicy" else None
    clues = list(_pod_clues(pods, match, last_heartbeat))
    named = match.pod if match is not None else ""
    if condition is not None and condition.reason == "DeadlineExceeded":
        clues.append(Clue(Standing.DEADLINE, Reason.DEADLINE_EXCEEDED, condition.message, "", None))
    if match is not None and all(clue.pod != named for clue in clues):
        clues.extend(_gone_pod_clues(match, condition.message if condition else "", last_heartbeat))
    if not clues:
        return _unexplained(job, pods, condition)
    # The Job controller names the pod that it saw fail first, and then deletes the others.
    clue = min(clues, key=lambda each: (each.standing, each.pod != named, each.deleting, each.rank or 0))
    if clue.reason is Reason.RENDEZVOUS_FAILED:
        # The peers waited for the one that never came.
        clue = next((each for each in clues if each.standing is Standing.NEVER_STARTED), clue)
    if clue.reason in {Reason.RENDEZVOUS_FAILED, Reason.DEADLINE_EXCEEDED}:
        clue = replace(clue, what=clue.what + _held_up(pods))
    return _failure(clue)


def final_result(pods: Sequence[PodFacts]) -> Result | None:
    """Return the Result that index 0's trainer left when it succeeded; None when it cannot be read."""
    ended = [pod for pod in pods if pod.index == 0 and pod.trainer is not None and pod.trainer.exit_code == 0]
    found = (read_result(pod.trainer) for pod in ended)
    return next((result for result in found if result is not None and result.outcome == "Complete"), None)


def _pod_clues(pods: Sequence[PodFacts], match: RuleMatch | None, last_heartbeat: str) -> Iterator[Clue]:
    for pod in pods:
        sources = (disruption_clue(pod, match), pod_clue(pod), exit_clue(pod, last_heartbeat), waiting_clue(pod))
        clue = next((each for each in sources if each is not None), None)
        if clue is not None:
            yield clue


def _gone_pod_clues(match: RuleMatch, said: str, last_heartbeat: str) -> Iterator[Clue]:
    """Return the clue of the Job's condition about a pod that is gone or tells nothing."""
    gone = "the pod was gone before it could be looked at"
    if match.exit_code is not None:
        reason = reason_of(match.exit_code) or Reason.UNKNOWN
        clue = code_clue(reason, match.exit_code, match.pod, match.index, last_heartbeat)
        yield replace(clue, what=f"{clue.what}; {gone}")
    elif match.rule is not None:
        standing = Standing.DISRUPTION if match.rule.operator == "Condition" else Standing.CRASH
        yield Clue(standing, match.rule.fallback, f"{gone}; the Job says: {said}", match.pod, match.index)


def _held_up(pods: Sequence[PodFacts]) -> str:
    """Say which pod never started, which explains why its peers waited in vain."""
    why = waiting(pods)
    return "" if why.reason == "Pending" else f"; meanwhile {why.message}"


def _failure(clue: Clue) -> Failure:
    code = clue.exit_code if clue.exit_code is not None and 0 < clue.exit_code <= _MAX_EXIT_CODE else None
    place = _place(clue)
    what = clean(clue.what, MAX_TEXT - len(place)) or f"ended with {clue.reason.value} and no other word"
    return Failure(
        reason=clue.reason,
        message=what + place,
        remedy=clean(clue.remedy) or REMEDIES[clue.reason],
        rank=clue.rank,
        exit_code=code or exit_code(clue.reason),
        retryable=retryable(clue.reason),
    )


def _place(clue: Clue) -> str:
    if clue.standing is Standing.NEVER_STARTED:
        return ""  # its text begins with the pod
    facts = (
        f"pod {clean(clue.pod, _MAX_NAME)}" if clue.pod else "",
        f"rank {clue.rank}" if clue.rank is not None else "",
        f"exit code {clue.exit_code}" if clue.exit_code else "",
    )
    return f" ({', '.join(filter(None, facts))})" if any(facts) else ""


def _unexplained(job: JobFacts, pods: Sequence[PodFacts], condition: JobCondition | None) -> Failure:
    """Say where was looked when nothing explains an end."""
    told = ", ".join(_summary(pod) for pod in pods[:_PODS_TOLD]) or "none is left"
    more = f" and {len(pods) - _PODS_TOLD} more" if len(pods) > _PODS_TOLD else ""
    said = f"{condition.type}, {condition.reason}: {condition.message}" if condition is not None else "no failure"
    message = (
        f"nothing explains the end of Job {job.namespace}/{job.name}; its condition says: {said}; "
        f"looked at conditions, reasons and containers of its pods: {told}{more}"
    )
    remedy = f"See the events: kubectl -n {job.namespace} describe job {job.name}. {REMEDIES[Reason.UNKNOWN]}"
    return Failure.of(Reason.UNKNOWN, clean(message), clean(remedy))


def _summary(pod: PodFacts) -> str:
    trainer = pod.trainer
    state = f"trainer {trainer.state or 'not started'}" if trainer is not None else "no trainer yet"
    code = f" with {trainer.exit_code}" if trainer is not None and trainer.exit_code is not None else ""
    return f"{pod.name} (rank {pod.index}, {pod.phase}, {state}{code}{', being deleted' if pod.deleting else ''})"
