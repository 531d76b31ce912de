"""The three sets of examples: read from addresses, or held out from the training rows, seeded and stratified.

The same manifest holds out the same rows on every run and every number of workers.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune_api.spec import Data, HeldOut
from finetune_trainer.data.formats import read_rows
from finetune_trainer.data.schema import Columns, Example, Read, to_examples
from finetune_trainer.errors import DataError

Locate = Callable[[str], Path]
_TEST_STREAM, _VALIDATION_STREAM, _SHOTS_STREAM = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Splits:
    """Examples by use; validation and test may be empty."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    pool: int | None = None
    """Training rows of which the given number of shots was drawn; None when all are used."""

    def named(self) -> Mapping[str, list[Example]]:
        """Return the sets by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def load_splits(data: Data, reader: Callable[[Columns], Read], seed: int, locate: Locate, cache: Path) -> Splits:
    """Read every set.

    Args:
        data: The manifest's data section.
        reader: The task's, from columns to what reads one row.
        seed: Decides which rows a fraction holds out.
        locate: Turns an address into a local path.
        cache: Where bytes in cells go.

    Returns:
        The sets; no row is in two of them.

    Raises:
        DataError: A file or row cannot be used, or nothing is left to train on.
    """  # noqa: DOC502

    def read(uri: str, file_format: str) -> list[Example]:
        return to_examples(read_rows(locate(uri), file_format, cache), reader, data.fields)

    def take(held_out: HeldOut | None, rest: list[Example], stream: int) -> tuple[list[Example], list[Example]]:
        if held_out is None:
            return [], rest
        if held_out.uri is not None:
            return read(held_out.uri, held_out.format), rest
        return hold_out(rest, held_out.fraction or 0.0, (seed, stream))

    train = read(data.train.uri, data.train.format)
    test, train = take(data.test, train, _TEST_STREAM)
    validation, train = take(data.validation, train, _VALIDATION_STREAM)
    if data.shots is None:
        return Splits(train, validation, test)
    return Splits(draw_shots(train, data.shots, (seed, _SHOTS_STREAM)), validation, test, len(train))


def hold_out(
    examples: Sequence[Example], fraction: float, seed: tuple[int, ...]
) -> tuple[list[Example], list[Example]]:
    """Split a stratified part off.

    Args:
        examples: Rows in file order.
        fraction: Part to hold out, of each label alike where labels repeat.
        seed: Decides which.

    Returns:
        The held-out rows and the rest, both in file order.

    Raises:
        DataError: One of the two would be empty.
    """
    strata = _by_label(examples)
    rng = np.random.default_rng(seed)
    chosen: set[int] = set()
    carry = 0.0
    for label in sorted(strata, key=str):
        members = strata[label]
        wanted = len(members) * fraction + carry
        count = min(round(wanted), len(members))
        carry = wanted - count
        chosen.update(members[i] for i in rng.permutation(len(members))[:count])
    held = [example for index, example in enumerate(examples) if index in chosen]
    rest = [example for index, example in enumerate(examples) if index not in chosen]
    if not held or not rest:
        raise DataError(
            f"holding out {fraction:g} of {len(examples)} rows leaves {len(rest)} to train on and {len(held)} to judge",
            remedy="Give more rows, or another fraction.",
        )
    return held, rest


def draw_shots(examples: Sequence[Example], count: int, seed: tuple[int, ...]) -> list[Example]:
    """Draw a few rows to learn from.

    Args:
        examples: Rows in file order.
        count: How many of each label; in all where rows have no label of their own, or any number of them. A choice
            among a row's own parts is no label.
        seed: Decides which. A smaller count draws some of the rows of a larger one.

    Returns:
        The rows, in file order; all rows of a label that has fewer.
    """
    labelled = all(isinstance(example.label, str) and not example.parts for example in examples)
    strata: Mapping[object, list[int]] = {None: list(range(len(examples)))}
    if labelled:
        strata = _by_label(examples)
    rng = np.random.default_rng(seed)
    chosen: set[int] = set()
    for label in sorted(strata, key=str):
        members = strata[label]
        chosen.update(members[i] for i in rng.permutation(len(members))[:count])
    return [example for index, example in enumerate(examples) if index in chosen]


def _by_label(examples: Sequence[Example]) -> Mapping[object, list[int]]:
    """Return the numbers of the rows of each label; rows without one label are together."""
    strata: dict[object, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        strata[example.label if isinstance(example.label, str) else None].append(index)
    return strata
