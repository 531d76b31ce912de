"""How far a metric may be off because rows are few: bootstrap intervals (Efron 1979), rows drawn with replacement."""

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Example
from finetune_trainer.evaluate import Found
from finetune_trainer.tasks.base import Coupled, Task, rows_by_example

Interval = tuple[float, float]
MOST_DRAWS, LEAST_DRAWS = 400, 100
LEAST_ROWS = 10
_ENDS = (2.5, 97.5)
_BUDGET_S = 0.5
"""For one set: an interval is worth a moment, not a part of the run."""


def intervals(task: Task, found: Found, seed: int) -> tuple[Mapping[str, Interval], str]:
    """Return the 95 % interval of every metric, and how it was found, or why there is none.

    Args:
        task: Whose metrics they are.
        found: What a model says of a set; rows of one example are drawn together.
        seed: Decides the draws.

    Returns:
        Lowest and highest value by metric, and a sentence for people.
    """
    bag = _Bag(task, found)
    if isinstance(task, Coupled):
        return {}, "no interval: rows are searched among each other, so a part of them is an easier problem"
    if bag.size < LEAST_ROWS:
        return {}, f"no interval: fewer than {LEAST_ROWS} rows"
    rng = np.random.default_rng(seed)
    began = time.perf_counter()
    values = [bag.draw(rng)]
    draws = min(MOST_DRAWS, int(_BUDGET_S / max(1e-9, time.perf_counter() - began)))
    if draws < LEAST_DRAWS:
        return {}, "no interval: the metrics of this many rows take too long to be computed hundreds of times"
    values += [bag.draw(rng) for _ in range(draws - 1)]
    ends = {
        name: np.percentile([each[name] for each in values], _ENDS, method="nearest").tolist() for name in values[0]
    }
    told = f"95 % of {draws} draws of {bag.size} rows with replacement lie in the interval"
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}, told


class _Bag:
    """Examples to be drawn with replacement, each with all its rows."""

    def __init__(self, task: Task, found: Found) -> None:
        """Start with one copy of every example."""
        self._task, self._found = task, found
        self._members = [np.array(rows) for rows in rows_by_example(found.examples).values()]
        self._copies = [[found.examples[rows[0]]] for rows in self._members]
        self.size = len(self._members)
        self._alone = np.concatenate(self._members) if self.size == len(found.examples) else None

    def draw(self, rng: np.random.Generator) -> Mapping[str, float]:
        """Return the metrics of as many examples as there are."""
        drawn = rng.integers(self.size, size=self.size)
        rows = np.concatenate([self._members[at] for at in drawn]) if self._alone is None else self._alone[drawn]
        predictions = {name: each[rows] for name, each in self._found.predictions.items()}
        return self._task.metrics(predictions, self._examples(drawn))

    def _examples(self, drawn: Rows) -> list[Example]:
        used = [0] * self.size
        examples: list[Example] = []
        for at in drawn.tolist():
            copies = self._copies[at]
            # Rows of one example are known by its identity: drawn twice, it has to be two.
            if used[at] == len(copies):
                copies.append(replace(copies[0]))
            examples += [copies[used[at]]] * len(self._members[at])
            used[at] += 1
        return examples
