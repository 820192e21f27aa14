"""A broken row is told by file, number and field, or skipped where that was asked for."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from core.errors import BadData
from core.types import Value
from environments.rows import BrokenRows, Row, parsed, read_rows


class Sum(Value):
    a: int
    b: int


def as_sum(row: Row) -> Sum:
    return Sum.model_validate(row)


GOOD, WRONG = '{"a": 1, "b": 2}', '{"a": 1, "b": "two"}'


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (WRONG, "b: Input should be a valid integer"),
        ('{"a": 1}', "b: Field required"),
        ('{"a": 1, "b"', "a: Field required"),
        ("[1, 2]", "a: Field required"),
        ('{"a": 1, "b": 2, "c": 3}', "c: Extra inputs are not permitted"),
    ],
)
def test_a_broken_row_is_named_by_file_number_and_field(tmp_path: Path, line: str, problem: str):
    file = tmp_path / "sums.jsonl"
    file.write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(BadData) as raised:
        list(parsed(file, as_sum))
    assert str(raised.value).startswith(f"{file}: row 2: {problem}")


def test_broken_rows_are_left_out_where_that_was_asked_for(tmp_path: Path):
    file = tmp_path / "sums.jsonl"
    file.write_text(f"{WRONG}\n{GOOD}\n")
    assert list(parsed(file, as_sum, BrokenRows.SKIP)) == [(2, Sum(a=1, b=2))]


def test_a_line_ends_at_a_newline_and_nowhere_else(tmp_path: Path):
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "one\u2028still one"}\r\n{"text": "two"}\n')
    assert [row["text"] for row in read_rows(file)] == ["one\u2028still one", "two"]


def test_parquet_holds_the_same_rows(tmp_path: Path):
    file = tmp_path / "sums.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"a": 1, "b": 2}, {"a": 3, "b": 4}]), file)
    assert [row for _, row in parsed(file, as_sum)] == [Sum(a=1, b=2), Sum(a=3, b=4)]


def test_what_is_no_data_file_is_told(tmp_path: Path):
    table = tmp_path / "sums.parquet"
    with pytest.raises(BadData, match=r"sums.parquet: not found; make one"):
        read_rows(table, otherwise="make one")
    with pytest.raises(BadData, match="expected a file of rows, found a folder"):
        read_rows(tmp_path)
    table.write_text("no table")
    with pytest.raises(BadData, match="not a parquet file"):
        read_rows(table)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"a": 1}]), table)
    with pytest.raises(BadData, match="the column 'b' is missing; found: a"):
        read_rows(table, ("a", "b"))
    (latin := tmp_path / "sums.jsonl").write_bytes(b'{"a": "\xe9"}\n')
    with pytest.raises(BadData, match="not UTF-8"):
        read_rows(latin)
