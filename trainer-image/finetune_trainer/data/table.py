"""Tokenised rows as flat arrays in memory-mapped files, cached by the content that they came from.

A table has ragged columns (one value per token, all with the same offsets) and dense ones (one vector per row). It is
written aside and renamed, so a reader never meets half a table.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.data.media import MediaColumn

Array = npt.NDArray[Any]
INPUT_IDS = "input_ids"
_VERSION = 5
_META = "table.json"
_NOTHING = -1
"""Stands behind a row's end in a column of fixed width."""


@dataclass(frozen=True, slots=True)
class TokenTable:
    """N tokenised rows.

    `ragged` maps a column to its values over all tokens, [sum of lengths]; `offsets` is [N + 1]; `dense` maps a column
    to [N, width]; `media` maps a role to the rows' images or sounds, which are decoded when a batch is made.
    """

    offsets: Array
    ragged: Mapping[str, Array]
    dense: Mapping[str, Array]
    media: Mapping[str, MediaColumn] = field(default_factory=dict[str, MediaColumn])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Array:
        """Tokens of each row, [N]."""
        return np.diff(self.offsets)

    def row(self, column: str, index: int) -> Array:
        """Return one row of a ragged column, [length]."""
        return self.ragged[column][self.offsets[index] : self.offsets[index + 1]]


def build_table(ragged: Mapping[str, Sequence[Sequence[int]]], dense: Mapping[str, Array]) -> TokenTable:
    """Flatten rows into a table; every ragged column has the same lengths."""
    offsets = offsets_of([len(row) for row in ragged[INPUT_IDS]])
    return TokenTable(offsets, {name: _flat(rows) for name, rows in ragged.items()}, dense)


def media_table(lengths: Sequence[int], dense: Mapping[str, Array]) -> TokenTable:
    """Return a table of rows that are images or sounds, each as long as the tokens that the model makes of it."""
    return TokenTable(offsets_of(lengths), {}, dense)


def cached(folder: Path, key: Mapping[str, Any], build: Callable[[], tuple[TokenTable, Any]]) -> tuple[TokenTable, Any]:
    """Return the table of a key and JSON notes about it, built at most once.

    Args:
        folder: Cache folder, shared between jobs.
        key: Everything that decides the table's content.
        build: Makes the table and its notes when they are not there.

    Returns:
        The table, memory-mapped, and the notes.
    """
    text = json.dumps({"version": _VERSION, **key}, sort_keys=True)
    place = folder / "tables" / hashlib.sha256(text.encode()).hexdigest()
    if not (place / _META).exists():
        _write(place, *build())
    return _read(place)


def _write(place: Path, table: TokenTable, notes: Any) -> None:
    aside = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    aside.mkdir(parents=True)
    np.save(aside / "offsets.npy", table.offsets)
    for name, values in (*table.ragged.items(), *table.dense.items()):
        np.save(aside / f"{name}.npy", values)
    meta = {"ragged": sorted(table.ragged), "dense": sorted(table.dense), "notes": notes}
    (aside / _META).write_text(json.dumps(meta), encoding="utf-8")
    try:
        os.replace(aside, place)  # noqa: PTH105 - a rename of a folder fails when another process was first
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)


def _read(place: Path) -> tuple[TokenTable, Any]:
    meta = json.loads((place / _META).read_text(encoding="utf-8"))

    def load(name: str) -> Array:
        return np.load(place / f"{name}.npy", mmap_mode="r")

    table = TokenTable(
        np.load(place / "offsets.npy"),
        {name: load(name) for name in meta["ragged"]},
        {name: load(name) for name in meta["dense"]},
    )
    return table, meta["notes"]


def fixed_width(rows: Sequence[Sequence[int]]) -> Array:
    """Return ragged rows of numbers from 0 on as a dense column, [N, longest]; `unpadded` gives each back."""
    found = np.full((len(rows), max(map(len, rows), default=0)), _NOTHING, dtype=np.int32)
    for at, row in enumerate(rows):
        found[at, : len(row)] = row
    return found


def unpadded(table: TokenTable, column: str, row: int) -> Array:
    """Return one row of a column of `fixed_width`, int64."""
    found = table.dense[column][row]
    return np.asarray(found[found != _NOTHING], dtype=np.int64)


def offsets_of(lengths: Sequence[int] | Array) -> Array:
    """Return where each row begins, and behind them where the last one ends, [N + 1]."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _flat(rows: Sequence[Sequence[int]]) -> Array:
    """Join rows, as bytes where every value fits: masks and segment numbers stand beside every token."""
    values = np.concatenate([np.asarray(row, dtype=np.int32) for row in rows]) if rows else np.zeros(0, dtype=np.int32)
    return values.astype(np.uint8) if len(values) and values.min() >= 0 and values.max() < 256 else values
