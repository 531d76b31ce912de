"""The curves of a run, from the events that it and the attempts before it wrote."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.names import EVENTS_FILE
from finetune_api.progress import ProgressEvent

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class History:
    """Values over steps, in the order of steps."""

    losses: Sequence[Point] = ()
    """The training loss, of those steps that were reported."""
    metrics: Mapping[str, Mapping[str, Sequence[Point]]] = field(default_factory=dict)
    """Of every set, by metric."""


def read_history(work: Path) -> History:
    """Read the events of a work folder; of a step that was done twice the later one counts."""
    losses: dict[float, float] = {}
    metrics: dict[str, dict[str, dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
    with (work / EVENTS_FILE).open("rb") as lines:
        for line in lines:
            try:
                event = ProgressEvent.from_json(line)
            except ValueError:
                continue  # a kill in the middle of a line
            data: dict[str, Any] = dict(event.data)
            if event.kind == "progress" and data["loss"] is not None:
                losses[data["step"]] = data["loss"]
            elif event.kind == "evaluation":
                for name, value in data["metrics"].items():
                    if value is not None:
                        metrics[data["split"]][name][data["step"]] = value
    return History(
        sorted(losses.items()),
        {split: {name: sorted(each.items()) for name, each in found.items()} for split, found in metrics.items()},
    )
