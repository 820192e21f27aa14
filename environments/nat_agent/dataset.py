"""Specifications as parquet or JSON lines: a train split and a held-out split that share no request and no tool.

One row is one AgentSpec: `task_id`, `split`, `request`, and `plan` and `hidden`, as objects or as their JSON text. Only
the plan is ever told to a policy; `hidden` holds the references, how inputs are drawn, mutants and variants. The file that
comes with the project is made by `natgym dataset nat_agent`; a user's own rows need `plan` and `hidden` only.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue, ValidationError

from core.errors import BadData
from core.logs import get_logger
from core.types import JsonObject
from environments.base import Split
from environments.nat_agent.plan import AgentSpec
from environments.nat_agent.requests import Mix, specs
from environments.rows import JSON, BrokenRows, Row, first_problem, read_rows

log = get_logger("dataset")

SHIPPED = Path(__file__).parent / "data" / "specs.parquet"
REQUIRED = ("plan", "hidden")


class SplitSpec(NamedTuple):
    """One row that was read."""

    split: Split
    spec: AgentSpec


def make_dataset(path: Path, *, train: int, held_out: int, seed: int, mix: Mix = Mix.SMALL) -> None:
    """Write `train` and `held_out` distinct specifications. The same arguments give the same rows."""
    made = [
        SplitSpec(split, spec)
        for split, count in ((Split.TRAIN, train), (Split.HELD_OUT, held_out))
        for spec in islice(specs(seed, held_out=split is Split.HELD_OUT, mix=mix), count)
    ]
    write_specs(path, made)


def write_specs(path: Path, rows: Sequence[SplitSpec]) -> None:
    """Write specifications. Raises BadData where the held-out split would hold what training sees."""
    if problem := leak(rows):
        raise BadData(f"{path}: {problem}")
    write_rows(path, [row_of(spec, split) for split, spec in rows])


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
    # the sources of the shipped file are tested; parsing them would double the time that it takes to start
    return [spec for one, spec in read_specs(path, broken, only=split, parse=path != SHIPPED) if one is split]


def read_specs(
    path: Path, broken: BrokenRows = BrokenRows.REFUSE, *, only: Split | None = None, parse: bool = True
) -> Iterator[SplitSpec]:
    """The rows of a file; see read_dataset. `only`: rows of the other split are not looked into. `parse`: sources are."""
    seen: dict[str, int] = {}
    for number, row in enumerate(read_rows(path, REQUIRED, f"`natgym dataset nat_agent --out {path}` makes one"), start=1):
        try:
            split = _split(row)
            if only is None or split is only:
                spec = _spec(row)
                if parse:
                    _check_sources(spec)
                if (first := seen.setdefault(spec.task_id, number)) != number:
                    raise ValueError(f"task_id: {spec.task_id!r} is that of row {first}")
                yield SplitSpec(split, spec)
        except ValueError as error:
            problem = f"{path}: row {number}: {first_problem(error)}"
            if broken is BrokenRows.REFUSE:
                raise BadData(problem) from error
            log.warning("row_skipped", problem=problem)


def leak(rows: Iterable[SplitSpec]) -> str | None:
    """What the held-out split has in common with the train split: a request, or a tool (name, purpose and constants)."""
    seen: dict[str, set[tuple[str, str]]] = {split: set() for split in Split}
    for split, spec in rows:
        seen[split].add(("request", spec.plan.user_request))
        for tool in spec.plan.custom_tools:
            settings = [(one.name, one.default) for one in tool.config]
            seen[split].add(("tool", f"{tool.name}: {tool.purpose} {settings or ''}".strip()))
    shared = sorted(seen[Split.TRAIN] & seen[Split.HELD_OUT])
    return f"both splits hold the {shared[0][0]} {shared[0][1][:120]!r}" if shared else None


def row_of(spec: AgentSpec, split: Split) -> dict[str, str]:
    """A specification as a row of the file."""
    hidden: JsonValue = [one.model_dump(mode="json") for one in spec.hidden]
    return {
        "task_id": spec.task_id,
        "split": split.value,
        "request": spec.plan.user_request,
        "plan": spec.plan.model_dump_json(),
        "hidden": JSON.dump_json(hidden).decode(),
    }


def _split(row: Row) -> Split:
    """Rows that do not say are for training."""
    found = row.get("split") or Split.TRAIN.value
    if found not in set(Split):
        raise ValueError(f"split: expected one of {', '.join(Split)}, found {found!r}")
    return Split(str(found))


def _spec(row: Row) -> AgentSpec:
    absent = [name for name in REQUIRED if row.get(name) is None]
    if absent:
        raise ValueError(f"{absent[0]}: is missing")
    data: JsonObject = {name: _value(row, name) for name in REQUIRED}
    plan = data["plan"]
    given = row.get("task_id")
    request = str(plan.get("user_request")) if isinstance(plan, dict) else ""
    data["task_id"] = given if given is not None else f"own-{hashlib.sha256(request.encode()).hexdigest()[:12]}"
    return AgentSpec.model_validate(data)


def _value(row: Row, name: str) -> JsonValue:
    """A column, whether it holds JSON text or what that says."""
    value = row[name]
    if not isinstance(value, str):
        return value
    try:
        return JSON.validate_json(value)
    except ValidationError as error:
        raise ValueError(f"{name}: {error.errors(include_url=False)[0]['msg']}") from error


def _check_sources(spec: AgentSpec) -> None:
    """Every hidden source has to be Python."""
    for number, tool in enumerate(spec.hidden):
        sources = {"reference": tool.reference}
        sources |= {f"mutants.{place}": source for place, source in enumerate(tool.mutants)}
        sources |= {f"variants.{place}": source for place, source in enumerate(tool.variants)}
        for name, source in sources.items():
            try:
                ast.parse(source)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                raise ValueError(f"hidden.{number}.{name}: is no Python: {error}") from error
