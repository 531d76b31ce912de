"""Read rows from files: jsonl, csv, parquet, text, tagged words (conll), COCO; and from folders of images or sounds.

A folder is read in the order of its files' names. Every row knows its file and number, so that every later complaint
can name them. What a row means is decided elsewhere.
"""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from finetune_trainer.data import coco
from finetune_trainer.data.cells import Cells
from finetune_trainer.errors import DataError

MAX_TEXT_BYTES = 2 * 1024 * 1024
"""A longer text is one file pasted into one row; tokenising it would hang a job for a mistake."""
_ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
    ".conll": "conll",
    ".json": "coco",
}
_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_SOUNDS = frozenset({".wav", ".flac", ".ogg", ".mp3", ".opus"})
CLASSES_FILE = "classes.txt"
"""Beside images and masks: the names of the classes, one a line."""
_ROWS_AT_ONCE, _CELLS_AT_ONCE = 65536, 64
"""Rows of parquet that are in memory together, without bytes in cells and with them: thousands of images are gigabytes.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the file's name, its number from 1 in it, and its columns."""

    file: str
    number: int
    values: dict[str, Any]
    folder: Path = Path()
    """Where paths in it start."""

    @property
    def place(self) -> str:
        """File and row, for messages."""
        return f"{self.file}, row {self.number}"

    def refuse(self, found: str, remedy: str) -> NoReturn:
        """Stop because of this row.

        Args:
            found: What is wrong with it.
            remedy: What to do about it.

        Raises:
            DataError: Always; it names the file and the row.
        """
        raise DataError(f"{self.place}: {found}", remedy=remedy)


def files_of(path: Path, file_format: str) -> list[tuple[Path, str]]:
    """List the files behind a path with their formats.

    Args:
        path: A file, or a folder whose known files are taken in the order of their names; without any, the folder
            itself when images or sounds are in it.
        file_format: auto, or the format that every file must have.

    Returns:
        Pairs of path and format, never none.

    Raises:
        DataError: Nothing is there, or a file's format cannot be told.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such file", remedy="Correct data.*.uri; file:// starts at the manifest.")
    if path.is_dir():
        if file_format == "folder":
            return [(path, "folder")]
        # Folders hold .json files that say other things; one of COCO is named itself.
        endings = {ending for ending, found in _ENDINGS.items() if found != "coco" or file_format == "coco"}
        files = [(each, _ENDINGS[each.suffix]) for each in sorted(path.iterdir()) if each.suffix in endings]
        if _has_masks(path):
            files = [each for each in files if each[0].name != CLASSES_FILE]
        if files:
            return [(file, found if file_format == "auto" else file_format) for file, found in files]
        if file_format == "auto" and any(_media_of(path)):
            return [(path, "folder")]
        known = ", ".join(sorted(endings))
        raise DataError(
            f"{path}: the folder holds no data file", remedy=f"Put files ending in {known}, images or sounds there."
        )
    if file_format == "auto" and path.suffix not in _ENDINGS:
        raise DataError(
            f"{path}: the format cannot be told from the ending {path.suffix!r}",
            remedy="Set format to jsonl, csv, parquet, text, conll or coco.",
        )
    return [(path, _ENDINGS[path.suffix] if file_format == "auto" else file_format)]


def read_rows(path: Path, file_format: str = "auto", cache: Path | None = None) -> list[Row]:
    """Read every row behind a path.

    Args:
        path: A file or a folder of files.
        file_format: auto, jsonl, csv, parquet, text, conll, coco or folder.
        cache: Where bytes in cells of parquet go; they stay in the rows when None.

    Returns:
        All rows, never none.

    Raises:
        DataError: A file is missing, empty, damaged or not UTF-8; the message names file and row.
    """  # noqa: DOC502
    return list(iterate_rows(path, file_format, cache))


def iterate_rows(path: Path, file_format: str = "auto", cache: Path | None = None) -> Iterator[Row]:
    """Yield the rows behind a path one after the other; bytes in the cache can be read when the last one was."""
    for file, found in files_of(path, file_format):
        empty = True
        for row in _parquet(file, cache) if found == "parquet" else _READERS[found](file):
            empty = False
            yield row
        if empty:
            raise DataError(f"{file}: the file has no rows", remedy="Write rows into it, or leave it out.")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{file.name}, row {number}: byte {error.start} is not UTF-8 ({raw[error.start]:#04x})",
                    remedy="Convert the file to UTF-8, for example with iconv -f latin1 -t utf-8.",
                ) from error
            yield number, text


def _jsonl(file: Path) -> Iterator[Row]:
    for number, line in _lines(file):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            row = Row(file.name, number, {})
            row.refuse(f"no valid JSON ({error})", "Write one JSON object per line.")
        if not isinstance(values, dict):
            Row(file.name, number, {}).refuse(
                f"a JSON {type(values).__name__}, not an object", "Write one JSON object per line."
            )
        yield Row(file.name, number, values, file.parent)


def _csv(file: Path) -> Iterator[Row]:
    csv.field_size_limit(2 * MAX_TEXT_BYTES)
    reader = csv.DictReader((text for _, text in _lines(file)), strict=True, restkey="", restval=None)
    number = 0
    try:
        for number, values in enumerate(reader, start=1):
            row = Row(file.name, number, values, file.parent)
            if "" in values:
                row.refuse("more cells than the header has columns", "Quote texts that contain the separator.")
            if None in values.values():
                row.refuse("fewer cells than the header has columns", "Write every column, empty ones too.")
            yield row
    except csv.Error as error:
        Row(file.name, number + 1, {}).refuse(f"damaged CSV ({error})", 'Write quotes inside a quoted text as "".')


def _parquet(file: Path, cache: Path | None) -> Iterator[Row]:
    import pyarrow as pa  # noqa: PLC0415 - 0.5 s that other formats do not need
    import pyarrow.parquet as pq  # noqa: PLC0415

    number = 0
    try:
        with pq.ParquetFile(file) as table, ExitStack() as stack:
            cells: Cells | None = None
            if cache is not None and any("binary" in str(each.type) for each in table.schema_arrow):
                cells = stack.enter_context(Cells(file, cache))
            for batch in table.iter_batches(_CELLS_AT_ONCE if cells else _ROWS_AT_ONCE):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(file.name, number, cells.take_out(values) if cells else values, file.parent)
    except (pa.ArrowException, OSError) as error:
        Row(file.name, number + 1, {}).refuse(f"damaged parquet ({error})", "Copy the file again; it may be cut off.")


def _media_of(folder: Path) -> Iterator[Path]:
    """Yield the images and sounds in a folder and its subfolders."""
    for each in sorted(folder.rglob("*")):
        if each.suffix.lower() in _IMAGES | _SOUNDS and each.is_file():
            yield each


def _has_masks(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "masks").is_dir()


def _folder(folder: Path) -> Iterator[Row]:
    """Read a row per image or sound; its label is the name of the subfolder of `folder` that it is in.

    Of the subfolders `images` and `masks`, files of one name, up to the ending, are a row.
    """
    if _has_masks(folder):
        masks = {each.relative_to(folder / "masks").with_suffix(""): each for each in _media_of(folder / "masks")}
        for each in _media_of(folder / "images"):
            name = each.relative_to(folder)
            mask = masks.get(each.relative_to(folder / "images").with_suffix(""))
            place = None if mask is None else mask.relative_to(folder).as_posix()
            yield Row(name.as_posix(), 1, {"image": name.as_posix(), "mask": place}, folder)
        return
    for each in _media_of(folder):
        name = each.relative_to(folder)
        values: dict[str, Any] = {"image" if each.suffix.lower() in _IMAGES else "audio": name.as_posix()}
        if len(name.parts) > 1:
            values["label"] = name.parts[0]
        yield Row(name.as_posix(), 1, values, folder)


def _text(file: Path) -> Iterator[Row]:
    for number, line in _lines(file):
        if text := line.strip():
            yield Row(file.name, number, {"text": text})


def _conll(file: Path) -> Iterator[Row]:
    """Read a word and its tag a line, the tag last, with an empty line after each sentence."""
    start, words, tags = 0, list[str](), list[str]()
    for number, line in _lines(file):
        cells = line.split()
        if cells and cells[0] != "-DOCSTART-":
            if len(cells) == 1:
                Row(file.name, number, {}).refuse("a word without a tag", "Write the tag behind it, O for none.")
            start = start or number
            words.append(cells[0])
            tags.append(cells[-1])
        elif words:
            yield Row(file.name, start, {"tokens": words, "tags": tags})
            start, words, tags = 0, [], []
    if words:
        yield Row(file.name, start, {"tokens": words, "tags": tags})


def _coco(file: Path) -> Iterator[Row]:
    folder, images = coco.read(file)
    for number, values in enumerate(images, start=1):
        yield Row(file.name, number, values, folder)


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "text": _text,
    "conll": _conll,
    "folder": _folder,
    "coco": _coco,
}
