"""Specifications as parquet: a train split and a held-out split that share no request and no tool.

One row is one AgentSpec: `task_id`, `split`, `request`, and `plan` and `hidden` as JSON. The file that comes with
the project is made by `natgym dataset nat_agent`.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from core.errors import BadData
from core.logs import get_logger
from core.types import JsonObject
from environments.base import Split
from environments.nat_agent.plan import AgentSpec
from environments.nat_agent.requests import specs

if TYPE_CHECKING:
    pass

log = get_logger("dataset")

SHIPPED = Path(__file__).parent / "data" / "specs.parquet"
COLUMNS = ("task_id", "split", "request", "plan", "hidden")
PLAN = TypeAdapter[JsonObject](JsonObject)
HIDDEN = TypeAdapter[list[JsonObject]](list[JsonObject])


class BrokenRows(StrEnum):
    """What becomes of a file with a row that is no specification."""

    REFUSE = "refuse"
    """The whole file is refused, naming the first such row."""
    SKIP = "skip"
    """Each such row is logged with its number and left out."""


def make_dataset(path: Path, *, train: int, held_out: int, seed: int) -> None:
    """Write `train` and `held_out` distinct specifications. The same arguments give the same rows."""
    rows = [
        _row(spec, split)
        for split, count in ((Split.TRAIN, train), (Split.HELD_OUT, held_out))
        for spec in islice(specs(seed, held_out=split is Split.HELD_OUT), count)
    ]
    write_rows(path, rows)


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write rows of the dataset, atomically."""
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), partial, compression="zstd")
    partial.replace(path)


def read_dataset(path: Path, split: Split, broken: BrokenRows = BrokenRows.REFUSE) -> list[AgentSpec]:
    """The specifications of one split, in file order.

    Raises BadData naming file, row number (from 1, both splits counted) and field; with `BrokenRows.SKIP` only where
    the file itself cannot be read.
    """
    found: list[AgentSpec] = []
    for number, row in enumerate(_read_rows(path), start=1):
        try:
            if row["split"] == split:
                found.append(_spec(row))
            elif row["split"] not in set(Split):
                raise ValueError(f"split: expected one of {', '.join(Split)}, found {row['split']!r}")
        except ValueError as error:
            problem = f"{path}: row {number}: {_first_problem(error)}"
            if broken is BrokenRows.REFUSE:
                raise BadData(problem) from error
            log.warning("row_skipped", problem=problem)
    return found


def _row(spec: AgentSpec, split: Split) -> dict[str, str]:
    return {
        "task_id": spec.task_id,
        "split": split.value,
        "request": spec.plan.user_request,
        "plan": spec.plan.model_dump_json(),
        "hidden": HIDDEN.dump_json([one.model_dump(mode="json") for one in spec.hidden]).decode(),
    }


def _spec(row: dict[str, str]) -> AgentSpec:
    return AgentSpec.model_validate(
        {"task_id": row["task_id"], "plan": PLAN.validate_json(row["plan"]), "hidden": HIDDEN.validate_json(row["hidden"])}
    )


def _read_rows(path: Path) -> Iterable[dict[str, str]]:
    import pyarrow.parquet

    try:
        table: pyarrow.Table = pyarrow.parquet.read_table(path)
    except FileNotFoundError as error:
        raise BadData(f"{path}: not found; `natgym dataset nat_agent --out {path}` makes one") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise BadData(f"{path}: not a parquet file: {str(error).splitlines()[0]}") from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise BadData(f"{path}: the column {missing[0]!r} is missing; found: {', '.join(table.column_names)}")
    return table.to_pylist()


def _first_problem(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in first['loc']) or 'row'}: {first['msg']}"
    return str(error)
