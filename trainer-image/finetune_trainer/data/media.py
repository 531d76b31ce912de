"""Images and sounds of rows: where their bytes lie, and their decoding, late and in threads.

A row holds a `Source`, never pixels or samples. Before training `looking` reads every source once; a batch is decoded
when it is made, and a set that is small when decoded is kept in a file and mapped.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from finetune_trainer.data.cells import Piece
from finetune_trainer.data.formats import Row
from finetune_trainer.data.schema import Source
from finetune_trainer.errors import DataError

MAX_BYTES = 256 * 1024 * 1024
"""A larger image or sound is a mistake, or has to be cut into several rows."""
_AT_ONCE = 64
_Result = TypeVar("_Result")
_Item = TypeVar("_Item")


class Undecodable(ValueError):
    """Bytes that are no image or sound that can be used; the text says why."""


class Decoder(Protocol):
    """What turns the bytes of a file into an array."""

    @property
    def key(self) -> str:
        """What decides the decoded values, for the cache's key."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the decoded values."""
        ...

    def shape(self, data: bytes) -> tuple[int, ...]:
        """Return the shape of the decoded array, from the header alone; `Undecodable` when it is no such file."""
        ...

    def values(self, data: bytes) -> tuple[int, ...]:
        """Return which numbers occur in the array, where a task has to know: the classes of a mask."""
        ...

    def decode(self, data: bytes) -> npt.NDArray[Any]:
        """Return the array: uint8 pixels [H, W, 3], classes [H, W], float32 samples [N]; `Undecodable` when damaged."""
        ...


class Workers:
    """Threads that decode: Pillow, libsndfile and NumPy let go of Python's lock while they work."""

    def __init__(self, count: int) -> None:
        """Start none yet.

        Args:
            count: How many work at once; with one, the caller works.
        """
        self.count = count
        self._pool: Executor | None = None

    def map(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
        """Call a function for every item, and give the results in the items' order, a bounded number ahead."""
        if self.count == 1:
            yield from map(function, items)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="decode")
        waiting = list(items)
        for start in range(0, len(waiting), _AT_ONCE):
            yield from self._pool.map(function, waiting[start : start + _AT_ONCE])


@dataclass(frozen=True, slots=True)
class MediaColumn:
    """The images or sounds of a table's rows; `kept` gives those of a small set without decoding."""

    sources: Sequence[Source | None]
    """None for a row that has none."""
    decoder: Decoder
    workers: Workers
    kept: Callable[[int], npt.NDArray[Any]] | None = None

    def source(self, row: int) -> Source:
        """Return where the image or sound of a row is; the row has one."""
        found = self.sources[row]
        assert found is not None, "internal: a row without this part was to be decoded"
        return found

    def decoded(self, row: int) -> npt.NDArray[Any]:
        """Return the array of a row.

        Args:
            row: Its number.

        Returns:
            What the decoder makes of it.

        Raises:
            DataError: The file is damaged, or gone; file, row and remedy are named.
        """  # noqa: DOC502
        if self.kept is not None:
            return self.kept(row)
        source = self.source(row)
        with blamed(source):
            return self.decoder.decode(source.read())

    def map(self, function: Callable[[int], _Result], rows: Iterable[int]) -> list[_Result]:
        """Call a function of the row's number for rows, in threads."""
        return list(self.workers.map(function, [int(row) for row in rows]))


def source_of(row: Row, column: str) -> Source:
    """Return where the image or sound of a row is.

    Args:
        row: The row.
        column: Holds a path, which starts at the data file's folder, or bytes, or an object with one of these, as
            libraries write it: {bytes, path}.

    Returns:
        The source, not yet looked at.

    Raises:
        DataError: There is none, or it lies outside the data's folder.
    """  # noqa: DOC502
    value: Any = row.values.get(column)
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Piece):
        return Source(value.file, f"row {row.number}", row.place, value.start, value.size)
    if not isinstance(value, str) or not value.strip():
        found = "nothing" if value is None else type(value).__name__
        row.refuse(f"column {column!r} holds {found}, not a path or bytes", "Write a path there, or delete the row.")
    return Source(_inside(row, column, value), value, row.place)


@contextmanager
def blamed(source: Source) -> Generator[None]:
    """Turn what can go wrong with a file into an error that names file and row."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{source.place}: {source.name!r} cannot be read ({error.strerror or error})",
            remedy="Copy the file there, correct the path, or delete the row.",
        ) from error
    except Undecodable as error:
        raise DataError(
            f"{source.place}: {source.name!r} {error}", remedy="Replace the file by a good one, or delete the row."
        ) from error


def _inside(row: Row, column: str, value: str) -> Path:
    """Return the path of a file that lies in the data's own folder, links followed."""
    given = PurePosixPath(value)
    remedy = "Put the files beside the data file, and write paths that start at its folder."
    if given.is_absolute() or ".." in given.parts or "\0" in value:
        row.refuse(f"column {column!r} leads out of the data's folder: {value!r}", remedy)
    path = row.folder / given
    if not path.resolve().is_relative_to(_root(row.folder)):
        row.refuse(f"column {column!r} is a link out of the data's folder: {value!r}", remedy)
    return path


def _root(folder: Path) -> Path:
    """Return the folder that files may lie in; a hub's snapshot consists of links into the repository's own store."""
    for parent in (folder, *folder.parents):
        if parent.name == "snapshots" and (parent.parent / "blobs").is_dir():
            return parent.parent.resolve()
    return folder.resolve()
