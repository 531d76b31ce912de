"""What is done with images and sounds once, before training: a look at each, and decoding those of a small set."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune_trainer.data.media import Decoder, MediaColumn, Workers, blamed
from finetune_trainer.data.schema import Example, Source
from finetune_trainer.data.table import Array, TokenTable, cached, offsets_of

KEPT_BYTES = 512 * 1024 * 1024
"""A set that is no larger when decoded is decoded once, and mapped: training reads it like tokens."""


def look(examples: Sequence[Example], decoders: Mapping[str, Decoder], workers: Workers, cache: Path) -> list[Example]:
    """Read every image and sound once: its header is checked, its bytes are hashed.

    A restart, and every other process, takes what was found from the cache while no file's size and time changed.

    Args:
        examples: Rows.
        decoders: By the part of an example that they decode; other parts are left alone.
        workers: Who reads.
        cache: Cache folder.

    Returns:
        The examples, their sources with shape and sha256.

    Raises:
        DataError: A file is missing, is no such file, or holds nothing; file, row and remedy are named.
    """  # noqa: DOC502
    parts = [(name, source) for example in examples for name, source in example.media.items() if name in decoders]
    if not parts:
        return list(examples)

    def found(part: tuple[str, Source]) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
        name, source = part
        with blamed(source):
            data = source.read()
            return hashlib.sha256(data).hexdigest(), decoders[name].shape(data), decoders[name].values(data)

    def build() -> tuple[TokenTable, Any]:
        return TokenTable(offsets_of([]), {}, {}), list(workers.map(found, parts))

    key = {"looked": [_state(source) for _, source in parts], "decoders": [each.key for each in decoders.values()]}
    _, notes = cached(cache, key, build)
    looked = iter(notes)

    def with_finding(source: Source) -> Source:
        sha256, shape, values = next(looked)
        return replace(source, sha256=sha256, shape=tuple(shape), values=tuple(values))

    def seen(media: Mapping[str, Source]) -> dict[str, Source]:
        return {name: with_finding(part) if name in decoders else part for name, part in media.items()}

    return [replace(each, media=seen(each.media)) for each in examples]


def digest_of(examples: Iterable[Example]) -> str:
    """Return the sha256 over what all images and sounds are called and hold."""
    whole = hashlib.sha256()
    for example in examples:
        for name, source in sorted(example.media.items()):
            whole.update(f"{name} {source.sha256} {source.name}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def keep(folder: Path, column: MediaColumn, budget_bytes: int = KEPT_BYTES) -> MediaColumn:
    """Decode a small set once, into a mapped file of the cache.

    Args:
        folder: Cache folder, shared between jobs.
        column: What to decode; every source was looked at.
        budget_bytes: A set that is larger decoded stays as it is.

    Returns:
        A column with the same values.

    Raises:
        DataError: A file is damaged behind its header; file, row and remedy are named.
    """  # noqa: DOC502
    sources, decoder = column.sources, column.decoder
    shapes = [(0,) if each is None else each.shape for each in sources]
    offsets = offsets_of([math.prod(shape) for shape in shapes])
    if int(offsets[-1]) * decoder.dtype.itemsize > budget_bytes:
        return column

    def build() -> tuple[TokenTable, Any]:
        values = np.empty(offsets[-1], dtype=decoder.dtype)
        there = [row for row, each in enumerate(sources) if each is not None]
        for row, found in zip(there, column.workers.map(column.decoded, there), strict=True):
            values[offsets[row] : offsets[row + 1]] = found.reshape(-1)
        return TokenTable(offsets, {"values": values}, {}), None

    table, _ = cached(folder, {"decoder": decoder.key, "content": [each and each.sha256 for each in sources]}, build)

    def kept(row: int) -> Array:
        return table.row("values", row).reshape(shapes[row])

    return replace(column, kept=kept)


def _state(source: Source) -> list[Any]:
    with blamed(source):
        found = source.file.stat()
    return [str(source.file), source.start, source.size, found.st_size, found.st_mtime_ns]
