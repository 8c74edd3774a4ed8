"""Tables in delimited text, as spreadsheets, pandas and R write them."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

DELIMITERS = (",", ";", "\t")
UNNAMED = "Unnamed: "  # pandas' name for a column without one, completed by its number
DECIMAL_COMMA = re.compile(r"([+-]?\d*),(\d+(?:[eE][+-]?\d+)?)")


@dataclass(frozen=True)
class TextTable:
    """Columns of equal length by name, and the line of the file on which each row ends."""

    columns: dict[str, list[str]]
    lines: Sequence[int]


def parse_csv(data: bytes) -> TextTable:
    """Read a table of comma-, semicolon- or tab-separated text.

    The text is UTF-8, with or without a byte-order mark, or UTF-16 with one. The delimiter is the one that
    splits the header into the most names. If it is a semicolon, decimal commas become points. A column
    without a name gets the name that pandas would give it, such as ``Unnamed: 0``. Lines without any value
    are left out.

    Args:
        data: The content of a file.

    Returns:
        The table, its values without blanks around them.

    Raises:
        UnicodeDecodeError: If the text has another encoding.
        csv.Error: If quotes do not match, rows have different numbers of fields, or a name occurs twice.
    """
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if utf16 else "utf-8-sig")
    delimiter = max(DELIMITERS, key=lambda mark: len(next(csv.reader(io.StringIO(text), delimiter=mark), [])))
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    rows, lines = [], []
    for row in reader:
        if any(cell.strip() for cell in row):
            rows.append(row)
            lines.append(reader.line_num)
    if not rows:
        return TextTable({}, [])
    names = [" ".join(name.split()) for name in rows.pop(0)]  # spreadsheets break the lines of long names
    del lines[0]
    header = [name or _unnamed(i, names) for i, name in enumerate(names)]
    if len(set(header)) != len(header):
        raise csv.Error(f"the column name {max(header, key=header.count)!r} occurs twice")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(header):
            raise csv.Error(f"line {line} has {len(row)} fields, the header has {len(header)}")
    columns = {name: [row[i].strip() for row in rows] for i, name in enumerate(header)}
    if delimiter == ";":
        columns = {name: [_with_point(cell) for cell in cells] for name, cells in columns.items()}
    return TextTable(columns, lines)


def _unnamed(column: int, names: Sequence[str]) -> str:
    """A name for a column without one; pandas writes such names, and adds ``.1`` to one that is taken."""
    name = f"{UNNAMED}{column}"
    while name in names:
        name += ".1"
    return name


def _with_point(cell: str) -> str:
    number = DECIMAL_COMMA.fullmatch(cell)
    return f"{number[1]}.{number[2]}" if number else cell
