"""The order of the samples: a pure function of seed and step, the same for any number of workers.

Rows of similar length meet in one batch, since padding is wasted work: the epoch is shuffled, cut into stretches of
many batches, sorted by length inside each, cut into batches, and the batches are shuffled. Which rows share a batch
stays random across stretches and epochs.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
_STRETCH_BATCHES = 64


class Sampler:
    """Batches of row numbers."""

    def __init__(self, lengths: npt.NDArray[np.int64], batch_size: int, seed: int) -> None:
        """Prepare the order.

        Args:
            lengths: Tokens of each row, [N].
            batch_size: Rows of an optimiser step over all workers.
            seed: Decides the order.
        """
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = -1
        self._batches: list[Rows] = []

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one pass; one of them may be smaller."""
        return -(-len(self._lengths) // self._batch_size)

    def batch(self, step: int) -> Rows:
        """Return the rows of the optimiser step, counted from 0 over all epochs."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._order(epoch)
        return self._batches[index]

    def _order(self, epoch: int) -> list[Rows]:
        rng = np.random.default_rng((self._seed, epoch))
        order = rng.permutation(len(self._lengths))
        stretch = self._batch_size * _STRETCH_BATCHES
        batches: list[Rows] = []
        for start in range(0, len(order), stretch):
            part = order[start : start + stretch]
            part = part[np.argsort(self._lengths[part], kind="stable")]
            batches += [part[at : at + self._batch_size] for at in range(0, len(part), self._batch_size)]
        return [batches[i] for i in rng.permutation(len(batches))]


def split_batch(
    rows: Sequence[int] | Rows, lengths: npt.NDArray[np.int64], micro_batch: int, world: int
) -> list[list[Rows]]:
    """Divide a global batch between processes and passes.

    Args:
        rows: The rows of one optimiser step.
        lengths: Tokens of each row of the data set.
        micro_batch: Most rows that one process handles at once.
        world: Number of processes.

    Returns:
        For each process its passes; every row is in exactly one. Rows are ordered by length first, so that each pass
        holds rows of similar length. A process may have no pass when the batch is smaller than the world.
    """
    ordered = sorted((int(row) for row in rows), key=lambda row: (-lengths[row], row))
    passes = -(-len(ordered) // (micro_batch * world)) * world
    pieces = [np.asarray(piece, dtype=np.int64) for piece in np.array_split(ordered, min(passes, len(ordered)))]
    return [pieces[rank::world] for rank in range(world)]
