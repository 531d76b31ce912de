"""A table of the API server's as kubectl prints it: same columns, same cells, same padding. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from finetune_operator.diagnose_text import clean

_PADDING: Final = 3
_LEAST: Final = 6
_LONGEST_CELL: Final = 1024
Object = Mapping[str, Any]


def headings(table: Object, *, wide: bool, namespaces: bool) -> list[str]:
    """Return the columns that are shown."""
    names = [each["name"].upper() for each in _shown(table, wide=wide)]
    return ["NAMESPACE", *names] if namespaces else names


def cells(table: Object, columns: Sequence[Object], *, wide: bool, namespaces: bool) -> Iterator[list[str]]:
    """Yield the rows; a watch tells the columns in its first event alone, so they come apart from the table."""
    kept = [at for at, each in enumerate(columns) if wide or each.get("priority", 0) == 0]
    for row in table.get("rows") or ():
        found = [_cell(row["cells"][at]) for at in kept]
        yield [row["object"]["metadata"]["namespace"], *found] if namespaces else found


def aligned(rows: Sequence[Sequence[str]], widths: list[int]) -> Iterator[str]:
    """Yield rows as lines; `widths` remembers the widest cells, so that later rows stand under earlier ones."""
    for row in rows:
        for at, cell in enumerate(row):
            if at == len(widths):
                widths.append(_LEAST)
            widths[at] = max(widths[at], len(cell) + _PADDING)
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield "".join([*padded[:-1], row[-1]])


def _shown(table: Object, *, wide: bool) -> list[Object]:
    return [each for each in table["columnDefinitions"] if wide or each.get("priority", 0) == 0]


def _cell(value: object) -> str:
    """Return a cell; kubectl shows no more than the first line."""
    if value is None:
        return ""
    first, more, _ = str(value).partition("\n")
    return clean(first, _LONGEST_CELL) + ("..." if more else "")
