"""Post the newest events to the operator, beside the training and never in its way.

A thread of the launcher, so that even a rank that computes for minutes is reported on. Reads the event file that rank 0
appends to; whatever happens to a post, training goes on and a later post carries the newest values. Each post is a
connection of its own: an operator with thousands of jobs cannot keep as many TLS connections open.
"""

import http.client
import random
import ssl
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from finetune_api.progress import ProgressEvent
from finetune_api.run_config import Endpoint

_MAX_EVENTS: Final = 100
_MAX_BODY_BYTES: Final = 60 * 1024
_MAX_ANSWER_BYTES: Final = 1024
_MAX_LINE_BYTES: Final = 1 << 20
_HOPELESS: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE})
_Slot = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often and how patiently; seconds."""

    every_s: float = 10.0
    """Between two posts of progress."""
    urgent_s: float = 1.0
    """Least time between two posts, whatever they carry."""
    alive_s: float = 60.0
    """Longest silence: without news an empty list is posted, which says that the launcher lives."""
    look_s: float = 0.5
    """Between two looks at the event file."""
    timeout_s: float = 5.0
    """For one post to connect, and for each of its answers."""
    patience_s: float = 120.0
    """Longest wait after failures in a row."""


class Refused(Exception):
    """The operator answered, but did not take the events."""

    def __init__(self, status: int, text: str, retry_after_s: float | None) -> None:
        """Keep the answer."""
        super().__init__(f"HTTP {status} {text!r}")
        self.status = status
        self.retry_after_s = retry_after_s


class EventTail:
    """The newest event of each kind that was appended to a file since this was made."""

    def __init__(self, file: Path) -> None:
        """Start behind what an earlier attempt wrote."""
        self._file = file
        self._position = file.stat().st_size if file.exists() else 0
        self._pending: dict[_Slot, ProgressEvent] = {}
        self.urgent = False
        """Whether a checkpoint or the result of an evaluation waits."""

    def look(self) -> None:
        """Read what was appended; a line that is not whole yet is read next time."""
        try:
            with self._file.open("rb") as stream:
                stream.seek(self._position)
                data = stream.read(_MAX_LINE_BYTES)
        except OSError:
            return
        whole, _, rest = data.rpartition(b"\n")
        if not whole and len(rest) == _MAX_LINE_BYTES:
            self._position += len(rest)
            return
        self._position += len(data) - len(rest)
        for line in whole.splitlines():
            try:
                self._note(ProgressEvent.from_json(line))
            except ValueError:
                continue

    def take(self) -> list[ProgressEvent]:
        """Return the events that wait, the newest last, as many as one post may carry; they wait no longer."""
        slots = list(self._pending)[:_MAX_EVENTS]
        size, taken = 2, list[ProgressEvent]()
        for slot in slots:
            size += len(self._pending[slot].to_json()) + 1
            if taken and size > _MAX_BODY_BYTES:
                break
            taken.append(self._pending.pop(slot))
        self.urgent = self.urgent and bool(self._pending)
        return taken

    def put_back(self, events: list[ProgressEvent]) -> None:
        """Let events wait again that could not be posted, but for those that newer ones have replaced."""
        for event in events:
            self._pending.setdefault(_slot(event), event)

    def waiting(self) -> bool:
        """Tell whether there is anything to post."""
        return bool(self._pending)

    def _note(self, event: ProgressEvent) -> None:
        if event.kind in {"decision", "progress", "evaluation", "checkpoint", "phase"}:
            slot = _slot(event)
            # To the end: what changed last is told last.
            self._pending.pop(slot, None)
            self._pending[slot] = event
            self.urgent = self.urgent or event.kind in {"checkpoint", "evaluation"}


class Poster:
    """Posts from a thread of its own until it is stopped."""

    def __init__(
        self,
        endpoint: Endpoint,
        events_file: Path,
        token_file: Path,
        pace: Pace | None = None,
        log: Callable[[str], object] = sys.stderr.write,
    ) -> None:
        """Remember where events come from and go to.

        Args:
            endpoint: The operator's address for this attempt.
            events_file: What rank 0 appends to; need not exist yet.
            token_file: Holds the token; read for each post, since the kubelet renews it.
            pace: How often.
            log: Told one line whenever posting begins to work or to fail.
        """
        self._endpoint = endpoint
        self._token_file = token_file
        self._pace = pace or Pace()
        self._log = log
        self._tail = EventTail(events_file)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._context: ssl.SSLContext | None = None
        self._failures = 0
        self._state = ""
        self._posted_at = float("-inf")
        self._next_at = float("-inf")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Post what is left, once, and end; waits for little more than one post may take."""
        self._stop.set()
        self._thread.join(self._pace.timeout_s + 1)

    def _run(self) -> None:
        while not self._stop.wait(self._pace.look_s):
            self._tail.look()
            if self._due(time.monotonic()):
                self._post()
        self._tail.look()
        if self._tail.waiting():
            self._post()

    def _due(self, now: float) -> bool:
        if now < self._next_at:
            return False
        silent_s = now - self._posted_at
        if self._tail.waiting():
            return silent_s >= (self._pace.urgent_s if self._tail.urgent else self._pace.every_s)
        return silent_s >= self._pace.alive_s and self._posted_at > float("-inf")

    def _post(self) -> None:
        events = self._tail.take()
        try:
            self._send(events)
        except Refused as error:
            # The same events would be refused again.
            if error.status not in _HOPELESS:
                self._tail.put_back(events)
            self._failed(f"the operator answered {error}", error.retry_after_s)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._tail.put_back(events)
            self._failed(f"{type(error).__name__} {error}", None)
        else:
            self._posted_at = time.monotonic()
            self._next_at = self._posted_at + self._pace.urgent_s
            again = f" again after {self._failures} failures" if self._failures else ""
            self._failures = 0
            self._tell("works", f"progress is posted{again} to {self._endpoint.url}")

    def _failed(self, why: str, retry_after_s: float | None) -> None:
        self._failures += 1
        wait_s = min(self._pace.patience_s, self._pace.every_s * 2 ** min(self._failures - 1, 10))
        # Jitter: after an outage of the operator thousands of jobs come back.
        wait_s = max(wait_s * random.uniform(0.5, 1.0), 0.0)
        self._next_at = time.monotonic() + (wait_s if retry_after_s is None else min(retry_after_s, wait_s))
        self._tell(why.split(maxsplit=1)[0], f"progress cannot be posted, training goes on: {why}")

    def _tell(self, state: str, line: str) -> None:
        if state != self._state:
            self._state = state
            self._log(f"{line}\n")

    def _send(self, events: list[ProgressEvent]) -> None:
        address = urlsplit(self._endpoint.url)
        if self._context is None:
            self._context = ssl.create_default_context(cadata=self._endpoint.ca or None)
        body = f"[{','.join(event.to_json() for event in events)}]".encode()
        headers = {
            "Authorization": f"Bearer {self._token_file.read_text(encoding='ascii').strip()}",
            "Content-Type": "application/json",
            "Connection": "close",
        }
        assert address.hostname is not None, "internal: the contract's pattern demands a host"
        # Neither proxies nor redirects: the token goes to this address alone.
        connection = http.client.HTTPSConnection(
            address.hostname, address.port, timeout=self._pace.timeout_s, context=self._context
        )
        try:
            connection.request("POST", address.path, body, headers)
            answer = connection.getresponse()
            if answer.status not in {HTTPStatus.OK, HTTPStatus.NO_CONTENT}:
                text = answer.read(_MAX_ANSWER_BYTES).decode("ascii", "replace").strip()
                raise Refused(answer.status, text, _seconds(answer.headers.get("Retry-After")))
        finally:
            connection.close()


def _slot(event: ProgressEvent) -> _Slot:
    names = {"decision": "name", "evaluation": "split"}
    return event.kind, str(event.data.get(names[event.kind], "")) if event.kind in names else ""


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdecimal() else None
