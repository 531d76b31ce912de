"""Bytes in cells of a table, such as images in parquet: laid into one flat file of the cache, and found again by place.

Kept in memory they would be the whole data set; read from parquet at random, each would cost its row group.
"""

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from finetune_trainer.checkpoint import sha256_of
from finetune_trainer.errors import StorageUnavailable


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a cell, which lie in a file of the cache."""

    file: Path
    start: int
    size: int


def put_back(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's values with the bytes in place of every `Piece`: what `Cells.take_out` was given."""
    return {name: _bytes(value) for name, value in values.items()}


def _bytes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bytes(each) for key, each in value.items()}
    if not isinstance(value, Piece):
        return value
    with value.file.open("rb") as stream:
        stream.seek(value.start)
        return stream.read(value.size)


class Cells:
    """The bytes of a file's cells, one after the other; written once per content, whole or not at all."""

    def __init__(self, file: Path, cache: Path) -> None:
        """Name the flat file.

        Args:
            file: Whose cells these are.
            cache: Cache folder, shared between jobs.
        """
        self._place = cache / "cells" / sha256_of(file)
        self._aside = self._place.with_name(f".{self._place.name}.{uuid.uuid4().hex}")
        self._end = 0
        self._stream: BinaryIO | None = None

    def __enter__(self) -> Self:
        """Start writing, unless the file is there."""
        if not self._place.exists():
            self._place.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._aside.open("xb")
        return self

    def __exit__(self, failed: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """Give the file its name, or remove it after a failure."""
        if self._stream is None:
            return
        self._stream.close()
        if failed is None:
            os.replace(self._aside, self._place)  # noqa: PTH105 - another process may have been first; both are equal
        else:
            self._aside.unlink(missing_ok=True)

    def take_out(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row's values with a `Piece` in place of bytes, also of those one level deeper."""
        return {name: self._piece(value) for name, value in values.items()}

    def _piece(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._piece(each) if isinstance(each, bytes) else each for key, each in value.items()}
        if not isinstance(value, bytes):
            return value
        if self._stream is not None:
            try:
                self._stream.write(value)
            except OSError as error:
                raise StorageUnavailable(
                    f"{self._place.parent}: bytes of cells cannot be kept ({error})", remedy="Free space for the cache."
                ) from error
        piece = Piece(self._place, self._end, len(value))
        self._end += len(value)
        return piece
