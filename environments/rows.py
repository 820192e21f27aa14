"""Rows of a data file, parquet or JSON lines, and what is wrong with one: the file, the row's number, the field."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue, TypeAdapter, ValidationError

from core.errors import BadData
from core.logs import get_logger

log = get_logger("rows")

JSON_LINES = (".jsonl", ".ndjson")
JSON = TypeAdapter[JsonValue](JsonValue)
Row = Mapping[str, JsonValue]
T = TypeVar("T")


class BrokenRows(StrEnum):
    """What becomes of a file with a row that is not what it should be."""

    REFUSE = "refuse"
    """The whole file is refused, naming the first such row."""
    SKIP = "skip"
    """Each such row is logged with its number and left out."""


def read_rows(path: Path, required: Sequence[str] = (), otherwise: str = "") -> Iterable[Row]:
    """The rows of a file; a line that is no JSON object is a row without fields.

    Raises BadData where the file cannot be read or lacks a column; `otherwise` says what to do about one that is not there.
    """
    if path.is_dir():
        raise BadData(f"{path}: expected a file of rows, found a folder")
    try:
        return _read_lines(path) if path.suffix in JSON_LINES else _read_parquet(path, required)
    except FileNotFoundError as error:
        raise BadData(f"{path}: not found{otherwise and f'; {otherwise}'}") from error
    except OSError as error:
        raise BadData(f"{path}: {error.strerror or error}") from error


def parsed(
    path: Path, parse: Callable[[Row], T], broken: BrokenRows = BrokenRows.REFUSE, required: Sequence[str] = ()
) -> Iterator[tuple[int, T]]:
    """What `parse` makes of each row, with the row's number from 1.

    A ValueError of `parse` is a broken row. Raises BadData for it, naming file, row and field, unless they are skipped.
    """
    for number, row in enumerate(read_rows(path, required), start=1):
        try:
            yield number, parse(row)
        except ValueError as error:
            problem = f"{path}: row {number}: {first_problem(error)}"
            if broken is BrokenRows.REFUSE:
                raise BadData(problem) from error
            log.warning("row_skipped", problem=problem)


def first_problem(error: ValueError) -> str:
    """`field: what is wrong with it`, the first one."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in first['loc']) or 'row'}: {first['msg'].removeprefix('Value error, ')}"
    return str(error)


def _read_lines(path: Path) -> list[Row]:
    rows: list[Row] = []
    try:
        # not splitlines: JSON texts may hold other separators of lines, such as U+2028, as they are
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise BadData(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
    for line in lines:
        try:
            value = JSON.validate_json(line)
        except ValidationError:
            value = None
        rows.append(value if isinstance(value, dict) else {})
    return rows


def _read_parquet(path: Path, required: Sequence[str]) -> list[Row]:
    import pyarrow.parquet

    try:
        table: pyarrow.Table = pyarrow.parquet.read_table(path)
    except FileNotFoundError:
        raise
    except (pyarrow.ArrowException, OSError) as error:
        raise BadData(f"{path}: not a parquet file: {str(error).splitlines()[0]}") from error
    missing = [name for name in required if name not in table.column_names]
    if missing:
        raise BadData(f"{path}: the column {missing[0]!r} is missing; found: {', '.join(table.column_names)}")
    return table.to_pylist()
