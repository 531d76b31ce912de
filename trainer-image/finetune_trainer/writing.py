"""Write answers: lines of JSON or parquet, aside and renamed, and with them the files that are parts of answers.

Beside lines of JSON such files lie in a folder of their own, and the line says where; parquet holds their bytes.
"""

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from finetune_trainer.errors import ConfigError, DataError, StorageUnavailable
from finetune_trainer.tasks.base import Attachment

Chunks = Iterator[list[dict[str, Any]]]
_Place = Callable[[int, Attachment], Any]
_FILES = "-files"


def check_ending(output: Path | None) -> None:
    """Refuse an output whose name says no format.

    Args:
        output: The file; standard output when None.

    Raises:
        ConfigError: It ends neither in .jsonl nor in .parquet.
    """
    if output is not None and output.suffix not in _WRITERS:
        raise ConfigError(f"{output}: the ending says no format", remedy="Write to .jsonl or .parquet.")


def write_answers(chunks: Chunks, output: Path | None, stream: TextIO) -> int:
    """Write every row; when one fails, nothing is left at the output's place.

    Args:
        chunks: Rows with their answers.
        output: A file ending in .jsonl or .parquet.
        stream: Where lines of JSON go without an output.

    Returns:
        How many rows were written.

    Raises:
        StorageUnavailable: The output cannot be written.
    """
    if output is None:
        return _lines(chunks, stream, _nowhere)
    number = uuid.uuid4().hex
    aside, files = (output.with_name(f".{name}.{number}") for name in (output.name, f"{output.stem}{_FILES}"))
    try:
        with ExitStack() as stack:
            stack.callback(aside.unlink, missing_ok=True)
            stack.callback(shutil.rmtree, files, ignore_errors=True)
            count = _WRITERS[output.suffix](chunks, aside, files)
            if files.exists():
                place = output.with_name(f"{output.stem}{_FILES}")
                shutil.rmtree(place, ignore_errors=True)
                files.replace(place)
            aside.replace(output)
    except OSError as error:
        raise StorageUnavailable(
            f"{output}: cannot be written ({error})", remedy="Free space, or choose another place."
        ) from error
    return count


def _nowhere(_: int, __: Attachment) -> Any:
    raise ConfigError("the answers are files", remedy="Give --output, ending in .jsonl or .parquet.")


def _placed(value: Any, number: int, place: _Place) -> Any:
    """Return an answer with its attachments put where `place` puts them."""
    if isinstance(value, Attachment):
        return place(number, value)
    if isinstance(value, dict):
        return {name: _placed(each, number, place) for name, each in value.items()}
    return value


def _lines(chunks: Chunks, stream: TextIO, place: _Place) -> int:
    count = 0
    for chunk in chunks:
        for count, row in enumerate(chunk, start=count + 1):  # noqa: B020 - numbers go on over the chunks
            stream.write(json.dumps(_placed(row, count, place), ensure_ascii=False, default=_as_text) + "\n")
        stream.flush()
    return count


def _write_jsonl(chunks: Chunks, aside: Path, files: Path) -> int:
    def place(number: int, part: Attachment) -> str:
        files.mkdir(exist_ok=True)
        file = files / f"{number:08d}{part.suffix}"
        file.write_bytes(part.data)
        return f"{files.name[1:].rpartition('.')[0]}/{file.name}"

    with aside.open("w", encoding="utf-8") as stream:
        return _lines(chunks, stream, place)


def _write_parquet(chunks: Chunks, aside: Path, _: Path) -> int:
    import pyarrow as pa  # noqa: PLC0415 - 0.5 s that other formats do not need
    import pyarrow.parquet as pq  # noqa: PLC0415

    def place(number: int, part: Attachment) -> dict[str, Any]:
        return {"bytes": part.data, "path": f"{number:08d}{part.suffix}"}

    count, writer = 0, None
    try:
        for chunk in chunks:
            rows = [_placed(row, number, place) for number, row in enumerate(chunk, start=count + 1)]
            try:
                table = pa.Table.from_pylist(rows, None if writer is None else writer.schema)
            except pa.ArrowException as error:
                raise DataError(
                    f"rows {count + 1} to {count + len(chunk)} do not fit the columns of those before ({error})",
                    remedy="Write to .jsonl, where every row has its own fields.",
                ) from error
            writer = writer or pq.ParquetWriter(aside, table.schema)
            writer.write_table(table)
            count += len(chunk)
    finally:
        if writer is not None:
            writer.close()
    return count


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        raise DataError("a column holds bytes, which JSON cannot", remedy="Write to .parquet.")
    return str(value)


_WRITERS: Mapping[str, Callable[[Chunks, Path, Path], int]] = {".jsonl": _write_jsonl, ".parquet": _write_parquet}
