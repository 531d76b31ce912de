"""The status as a draft: changed by small verbs, compared with what is stored, sent as one patch.

Pure. `TRANSITIONS` is the one table of phases; a draft refuses any other step, so a finished job stays finished.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal

from finetune_api.status import ConditionType

ConditionStatus = Literal["True", "False", "Unknown"]
PhaseName = Literal["", "Pending", "Running", "Suspended", "Restarting", "Complete", "Failed"]

TRANSITIONS: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset({"Pending", "Running", "Suspended", "Restarting", "Complete", "Failed"}),
    "Pending": frozenset({"Running", "Suspended", "Restarting", "Complete", "Failed"}),
    "Running": frozenset({"Pending", "Suspended", "Restarting", "Complete", "Failed"}),
    "Suspended": frozenset({"Pending", "Running", "Restarting", "Complete", "Failed"}),
    "Restarting": frozenset({"Pending", "Running", "Suspended", "Complete", "Failed"}),
    "Complete": frozenset(),
    "Failed": frozenset(),
}
_MAX_MESSAGE: Final = 1024


class Draft:
    """A status in the making."""

    def __init__(self, status: Mapping[str, Any], generation: int, now: datetime) -> None:
        """Start from what is stored.

        Args:
            status: The stored status; it is not changed.
            generation: Generation of the spec that was looked at.
            now: The API server's time.
        """
        self.old = status
        # Values are replaced, never changed in place, so one level is enough.
        self.value: dict[str, Any] = dict(status)
        self._generation = generation
        self._now = now

    @property
    def phase(self) -> str:
        """The phase so far."""
        return self.value.get("phase", "")

    @property
    def attempt(self) -> int:
        """The attempt, counted from 1; the first needs no write."""
        return max(1, self.value.get("attempt", 1))

    def move(self, phase: PhaseName) -> None:
        """Change the phase; a step that the table does not have is an error of the program."""
        if phase != self.phase:
            assert phase in TRANSITIONS[self.phase], f"internal: no step from {self.phase!r} to {phase!r}"
            self.value["phase"] = phase

    def condition(self, kind: ConditionType) -> Mapping[str, Any]:
        """Return a condition, empty when it was never set."""
        return condition(self.value, kind)

    def holds(self, kind: ConditionType) -> bool:
        """Tell whether a condition is True."""
        return self.condition(kind).get("status") == "True"

    def set(self, kind: ConditionType, status: ConditionStatus, reason: str, message: str = "") -> None:
        """Set a condition; its time changes only with its status."""
        old = self.condition(kind)
        since = old["lastTransitionTime"] if old.get("status") == status else rfc3339(self._now)
        new = {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": bounded(message),
            "lastTransitionTime": since,
            "observedGeneration": self._generation,
        }
        if old and all(old.get(name) == new[name] for name in ("status", "reason", "message")):
            return
        conditions: list[dict[str, Any]] = self.value.get("conditions") or []
        self.value["conditions"] = [each for each in conditions if each["type"] != kind] + [new]

    def stop_running(self, reason: str, message: str = "") -> None:
        """Note that no pods run any more, and add up how long they did."""
        running = self.condition("Running")
        if running.get("status") == "True":
            since = datetime.fromisoformat(running["lastTransitionTime"])
            ran_s = max(0, int((self._now - since).total_seconds()))
            self.value["activeSeconds"] = self.value.get("activeSeconds", 0) + ran_s
        self.set("Running", "False", reason, message)

    def active_s(self) -> float:
        """Return how long it has run, all attempts together, in seconds."""
        total = float(self.value.get("activeSeconds", 0))
        running = self.condition("Running")
        if running.get("status") == "True":
            total += (self._now - datetime.fromisoformat(running["lastTransitionTime"])).total_seconds()
        return total

    def patch(self) -> dict[str, Any] | None:
        """Return the merge patch that makes the stored status this one; None when it is so already."""
        changes = {name: value for name, value in self.value.items() if self.old.get(name) != value}
        changes |= dict.fromkeys(self.old.keys() - self.value.keys())
        # An edit that changes nothing else is acknowledged; the first status waits until there is something to say.
        if not changes and self.old.get("observedGeneration") in {None, self._generation}:
            return None
        if self.old.get("observedGeneration") != self._generation:
            changes["observedGeneration"] = self._generation
        return changes


def condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Return a condition of a stored status, empty when it has none of that type."""
    return next((each for each in status.get("conditions") or () if each["type"] == kind), {})


def bounded(message: str) -> str:
    """Return a message that fits, without characters that could write to a terminal."""
    printable = "".join(each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in message)
    return printable if len(printable) <= _MAX_MESSAGE else f"{printable[: _MAX_MESSAGE - 3]}..."


def rfc3339(at: datetime) -> str:
    """Return a time as Kubernetes writes it: UTC, whole seconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
