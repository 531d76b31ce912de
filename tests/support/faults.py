"""What a FaultProxy does to requests and watches: values and predicates, without I/O.

A fault is switched on and off while requests run. `Request` is one recorded request; `to` makes predicates over it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

WRITE_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_ROOT_PARTS = {"api": 2, "apis": 3}


@dataclass(slots=True)
class Request:
    """One request as it arrived; `status` is 0 until it was answered, and stays 0 when it was cut off."""

    method: str
    path: str
    query: str
    user_agent: str
    at: float = field(default_factory=time.monotonic)
    """Monotonic seconds."""
    status: int = 0
    body: bytes = b""
    params: dict[str, str] = field(default_factory=dict)

    @property
    def is_write(self) -> bool:
        return self.method in WRITE_METHODS and self.params.get("dryRun") != "All"

    @property
    def is_watch(self) -> bool:
        return self.method == "GET" and self.params.get("watch") in {"1", "true"}

    @property
    def resource(self) -> str:
        """The plural, with the subresource when there is one: `jobs`, `finetunejobs/status`."""
        return self._parts()[0]

    @property
    def name(self) -> str:
        """The object's name; empty for a collection."""
        return self._parts()[1]

    def _parts(self) -> tuple[str, str]:
        parts = self.path.strip("/").split("/")
        rest = parts[_ROOT_PARTS.get(parts[0], 0) :]
        if rest[:1] == ["namespaces"] and len(rest) > 2:
            rest = rest[2:]
        plural, name, *more = [*rest, "", ""][: max(2, len(rest))]
        return "/".join([plural, *more]), name


Match = Callable[[Request], bool]
EventMatch = Callable[[dict[str, Any]], bool]


def everything(_: Any) -> bool:
    return True


def to(resource: str = "", method: str = "", name: str = "", *, watch: bool | None = None) -> Match:
    """Return a predicate over resource (`jobs`, `finetunejobs/status`), method and name; an empty one fits any."""

    def match(request: Request) -> bool:
        return (
            resource in {"", request.resource}
            and method in {"", request.method}
            and name in {"", request.name}
            and watch in {None, request.is_watch}
        )

    return match


@dataclass(slots=True)
class Answer:
    """An answer given in place of the API server's."""

    code: int
    match: Match
    times: int | None
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(slots=True)
class WriteHook:
    """Something to do at the k-th write from when it was set."""

    left: int
    callback: Callable[[], Any]
    match: Match
    before: bool
    lose: bool


@dataclass(slots=True)
class Faults:
    """Every fault that is on; a fresh one is a proxy that only passes things on."""

    answers: list[Answer] = field(default_factory=list)
    delays: list[tuple[float, Match]] = field(default_factory=list)
    hooks: list[WriteHook] = field(default_factory=list)
    stalled: Match | None = None
    """Watches that pass nothing."""
    stalled_before: float = float("inf")
    """Only watches opened before this are stalled; monotonic seconds."""
    watch_delays: list[tuple[float, Match]] = field(default_factory=list)
    drop: EventMatch | None = None
    drops_left: int | None = None
    duplicate: bool = False

    def answer_for(self, request: Request) -> Answer | None:
        """Return the answer to give instead, and count it."""
        found = next((each for each in self.answers if each.times != 0 and each.match(request)), None)
        if found is not None and found.times is not None:
            found.times -= 1
        return found

    def delay_s(self, request: Request) -> float:
        return sum(seconds for seconds, match in self.delays if match(request))

    def hook_for(self, request: Request, *, before: bool) -> WriteHook | None:
        """Return the hook whose write this is, and count the write."""
        due: WriteHook | None = None
        for hook in self.hooks:
            if request.is_write and hook.before == before and hook.left > 0 and hook.match(request):
                hook.left -= 1
                due = hook if hook.left == 0 else due
        return due

    def stalls(self, request: Request) -> bool:
        return self.stalled is not None and request.at < self.stalled_before and self.stalled(request)

    def watch_delay_s(self, request: Request) -> float:
        return sum(seconds for seconds, match in self.watch_delays if match(request))

    def copies(self, event: dict[str, Any]) -> int:
        """Return how often a watch event is passed on, and count a dropped one."""
        if self.drop is not None and self.drops_left != 0 and self.drop(event):
            if self.drops_left is not None:
                self.drops_left -= 1
            return 0
        return 2 if self.duplicate and event.get("type") != "BOOKMARK" else 1

    @property
    def reads_events(self) -> bool:
        """Whether events must be parsed."""
        return self.drop is not None or self.duplicate


def status_object(code: int, message: str = "", reason: str = "") -> dict[str, Any]:
    """Return the Status object of an error, as the API server words it."""
    reasons = {400: "BadRequest", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired"}
    reasons |= {422: "Invalid", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message or f"injected by the test: {code}",
        "reason": reason or reasons.get(code, "Unknown"),
        "code": code,
    }
