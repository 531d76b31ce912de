"""Whether the operator can do its work: it hears the API server, and the API server takes what it would write.

Told by /healthz. An outage of the API server is told too, so /healthz decides readiness; a restart mends none of it, so
the process's own life is asked by /livez.
"""

import asyncio
import time
from collections import deque

from finetune_api.names import API_VERSION, KIND, MANAGER
from finetune_operator import errors
from finetune_operator.cluster import Cluster, Object, core
from finetune_operator.settings import Settings

_ENDS, _SOON_S = 4, 60.0
_AGAIN_S = 2.0


class Health:
    """Problems by what they are about, one line each."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        """Start without problems."""
        self._cluster = cluster
        self._settings = settings
        self._problems: dict[str, str] = {}
        self._due: dict[str, float] = {}
        self._ends: deque[tuple[float, str]] = deque(maxlen=_ENDS)

    def expect(self, what: str, within_s: float) -> None:
        """Note a sign of life of something, or the begin of waiting for one; the next must come within a time."""
        self._due[what] = time.monotonic() + within_s

    def tell(self, about: str, problem: str) -> None:
        """Note what is wrong with something, or that nothing is any more (an empty text)."""
        if problem:
            self._problems[about] = problem
        else:
            self._problems.pop(about, None)

    def ended(self, what: str, why: str) -> None:
        """Note that something that should go on ended and was started again; one that keeps ending is a problem."""
        self._ends.append((time.monotonic(), f"{what} ends again and again: {why}"))

    def problems(self) -> list[str]:
        """Return what keeps the operator from working; empty when it works."""
        now = time.monotonic()
        late = [
            f"nothing was heard of {what}, overdue by {now - due:.0f} s" for what, due in self._due.items() if now > due
        ]
        often = len(self._ends) == _ENDS and now - self._ends[0][0] < _SOON_S
        return [*self._problems.values(), *late, *([self._ends[-1][1]] if often else [])]

    async def rehearse(self) -> None:
        """Ask the API server now and then whether it would take an event, without storing it; until cancelled."""
        namespace = (*self._settings.namespaces, "default")[0]
        about = {"apiVersion": API_VERSION, "kind": KIND, "namespace": namespace, "name": "rehearsal"}
        body: Object = {
            "metadata": {"generateName": "rehearsal-", "namespace": namespace},
            "involvedObject": about,
            "type": "Normal",
            "reason": "Rehearsal",
            "source": {"component": MANAGER},
        }
        while True:
            wait_s = self._settings.rehearse_every_s
            try:
                await self._cluster.rehearse(core("events", namespace), body)
                self.tell("writes", "")
            except errors.ClusterError as error:
                self.tell("writes", f"the API server takes no writes: {error}")
                wait_s = min(wait_s, _AGAIN_S)
            await asyncio.sleep(wait_s)
