"""Put several short rows into one sequence: first fit, longest row first."""

from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Assign rows to sequences.

    Args:
        lengths: Tokens of each row, none above the capacity.
        capacity: Most tokens of a sequence.

    Returns:
        For each sequence the positions in `lengths` that it holds, longest first; every position once.
    """
    sequences: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((at for at, room in enumerate(free) if room >= lengths[index]), None)
        if place is None:
            sequences.append([])
            free.append(capacity)
            place = len(free) - 1
        sequences[place].append(index)
        free[place] -= lengths[index]
    return sequences
