"""Whether the operator can do its work: it hears the API server, and the API server takes what it would write.

Told by /healthz. An outage of the API server is told too, so /healthz decides readiness; a restart mends none of it, so
the process's own life is asked by /livez.
"""

import asyncio
import time

from finetune_api.names import API_VERSION, KIND, MANAGER
from finetune_operator import errors
from finetune_operator.cluster import Cluster, Object, core
from finetune_operator.settings import Settings


class Health:
    """Problems by what they are about, one line each."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        """Start without problems."""
        self._cluster = cluster
        self._settings = settings
        self._problems: dict[str, str] = {}
        self._due: dict[str, float] = {}

    def expect(self, what: str, within_s: float) -> None:
        """Note a sign of life of something, or the begin of waiting for one; the next must come within a time."""
        self._due[what] = time.monotonic() + within_s

    def tell(self, about: str, problem: str) -> None:
        """Note what is wrong with something, or that nothing is any more (an empty text)."""
        if problem:
            self._problems[about] = problem
        else:
            self._problems.pop(about, None)

    def problems(self) -> list[str]:
        """Return what keeps the operator from working; empty when it works."""
        now = time.monotonic()
        late = [
            f"nothing was heard of {what}, overdue by {now - due:.0f} s" for what, due in self._due.items() if now > due
        ]
        return [*self._problems.values(), *late]

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
            try:
                await self._cluster.rehearse(core("events", namespace), body)
                self.tell("writes", "")
            except errors.ClusterError as error:
                self.tell("writes", f"the API server takes no writes: {error}")
            await asyncio.sleep(self._settings.rehearse_every_s)
