"""What a search asks of the place where its trials run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from finetune_api.result import ArtifactRef, Failure
from finetune_api.spec import FineTuneJob

Values = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Leg:
    """How a trial's run ended, at its end or before."""

    outcome: Literal["Paused", "Complete", "Failed", "Interrupted"]
    """Interrupted: somebody asked to stop; the same leg can be run again and goes on."""
    values: Values = ()
    """The objective after each evaluation since the trial's beginning."""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    artifact: ArtifactRef | None = None
    failure: Failure | None = None


class Runner(Protocol):
    """Runs trials; a trial that ran before goes on from its newest checkpoint."""

    def run(self, number: int, job: FineTuneJob, until: int | None, on_value: Callable[[Values], None]) -> Leg:
        """Run a trial.

        Args:
            number: Which trial.
            job: What it is.
            until: Evaluations after which it is stopped with a checkpoint; None runs it to its end.
            on_value: Told the values so far after each evaluation.

        Returns:
            How it ended.
        """
        ...

    def drop(self, number: int) -> None:
        """Delete what a complete trial left, since another one is better."""
        ...
