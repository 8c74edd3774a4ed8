"""Delimited text as spreadsheets, pandas and R write it."""

from __future__ import annotations

import csv

import pytest

from hwnas.tabular import TextTable, parse_csv


def test_delimiters_within_quotes_do_not_count() -> None:
    table = parse_csv(b'"a, b, c";d\r\n"1;2";3\r\n')
    assert table == TextTable({"a, b, c": ["1;2"], "d": ["3"]}, [2])


def test_lines_are_those_of_the_file() -> None:
    """Beyond empty lines, and values of two lines."""
    table = parse_csv(b'a,b\n\n1,2\n , \n"3\n",4\n5,6')
    assert table == TextTable({"a": ["1", "3", "5"], "b": ["2", "4", "6"]}, [3, 6, 7])


def test_columns_without_a_name_get_one() -> None:
    table = parse_csv(b",a,,Unnamed: 0\n1,2,3,4\n")
    assert list(table.columns) == ["Unnamed: 0.1", "a", "Unnamed: 2", "Unnamed: 0"]


def test_only_whole_numbers_have_decimal_commas() -> None:
    table = parse_csv(b"a;b\n1,5;x,5\n-,25e3;1,2,3\n")
    assert table.columns == {"a": ["1.5", "-.25e3"], "b": ["x,5", "1,2,3"]}
    assert parse_csv(b"a\tb\n1,500\t2\n").columns["a"] == ["1,500"]  # 1,500 may be thousands there


def test_nothing_has_no_columns() -> None:
    for data in (b"", b"\n\n", b"\xef\xbb\xbf"):
        assert parse_csv(data) == TextTable({}, [])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a,b\n1,2\n1,2,3\n", "line 3 has 3 fields, the header has 2"),
        (b"a,b,a\n1,2,3\n", "the column name 'a' occurs twice"),
        (b'a,b\n"1,2\n', "unexpected end of data"),
    ],
)
def test_other_text_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(csv.Error, match=message):
        parse_csv(data)
