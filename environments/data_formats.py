"""Rows of training data, one JSON object each, from the episodes of a group that were kept.

sharegpt   {id, task_id, environment, conversations, reward, parts, metrics, turns, stop}    one an episode
openai     the same with messages and tools, as OpenAI's fine-tuning takes them              one an episode
groups     a ScoredGroup with the episodes that were kept                                    one a group
pairs      {id, prompt, chosen, rejected, tools, ...}: preferences, as for DPO               at most one a group
"""

import json
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

from pydantic import JsonValue

from core.files import resumable
from core.types import JsonObject, Message, ScoredGroup, Trajectory
from environments.sharegpt import Conversation, to_sharegpt
from tool_call_parsers.rendering import history

AS_TEXT = ("tools", "parts", "metrics", "task", "trajectories")
"""Columns of a parquet file that are JSON in a string: their fields differ from row to row."""


Rows = Callable[[ScoredGroup, Sequence[Trajectory]], list[JsonObject]]


class DataFormat(StrEnum):
    """What a row is."""

    SHAREGPT = "sharegpt"
    OPENAI = "openai"
    GROUPS = "groups"
    PAIRS = "pairs"


def rows_of(group: ScoredGroup, kept: Sequence[Trajectory], form: DataFormat) -> list[JsonObject]:
    """The rows of a group; none where nothing was kept."""
    return ROWS[form](group, kept) if kept else []


def row_of(group: ScoredGroup, trajectory: Trajectory) -> JsonObject:
    """One scored episode as a ShareGPT row."""
    said = Conversation(history(group.task.messages, trajectory.turns), group.task.tools)
    return {**_named(group, trajectory), "conversations": [dict(one) for one in to_sharegpt(said)], **_scored(trajectory)}


def _openai_row(group: ScoredGroup, trajectory: Trajectory) -> JsonObject:
    messages = _messages(history(group.task.messages, trajectory.turns))
    return {**_named(group, trajectory), "messages": messages, "tools": _tools(group), **_scored(trajectory)}


def _group_rows(group: ScoredGroup, kept: Sequence[Trajectory]) -> list[JsonObject]:
    return [group.model_copy(update={"trajectories": tuple(kept)}).model_dump(mode="json")]


def _pair_rows(group: ScoredGroup, kept: Sequence[Trajectory]) -> list[JsonObject]:
    """The best that was kept before the worst of the whole group; nothing where all earned the same."""
    best, worst = max(kept, key=_total), min(group.scored, key=_total)
    if _total(best) <= _total(worst):
        return []
    prompt = len(group.task.messages)
    chosen, rejected = (history(group.task.messages, one.turns)[prompt:] for one in (best, worst))
    return [
        {
            "id": group.id,
            "task_id": group.task.id,
            "environment": group.environment,
            "prompt": _messages(group.task.messages),
            "chosen": _messages(chosen),
            "rejected": _messages(rejected),
            "tools": _tools(group),
            "chosen_reward": _total(best),
            "rejected_reward": _total(worst),
        }
    ]


def write_parquet(rows: Path, out: Path) -> int:
    """The rows of a JSON lines file, which memory has to hold, as parquet; how many. It appears whole or not at all.

    Columns named in AS_TEXT are JSON in a string. Needs pyarrow. Raises UserError where it cannot be written.
    """
    import pyarrow
    import pyarrow.parquet

    with rows.open(encoding="utf-8") as lines:
        table = pyarrow.Table.from_pylist([_flat(json.loads(line)) for line in lines])
    unfinished = out.with_name(f"{out.name}.part")
    with resumable(out):
        try:
            pyarrow.parquet.write_table(table, unfinished)
            unfinished.replace(out)
        finally:
            unfinished.unlink(missing_ok=True)
    return table.num_rows


def _flat(row: JsonObject) -> JsonObject:
    return {key: json.dumps(value, ensure_ascii=False) if key in AS_TEXT else value for key, value in row.items()}


def _named(group: ScoredGroup, trajectory: Trajectory) -> JsonObject:
    return {"id": trajectory.id, "task_id": group.task.id, "environment": group.environment}


def _scored(trajectory: Trajectory) -> JsonObject:
    assert trajectory.reward is not None
    return {
        "reward": trajectory.reward.total,
        "parts": dict(trajectory.reward.parts),
        "metrics": dict(trajectory.reward.metrics),
        "turns": len(trajectory.turns),
        "stop": trajectory.stop.value,
    }


def _messages(messages: Sequence[Message]) -> list[JsonValue]:
    return [one.to_openai() for one in messages]


def _tools(group: ScoredGroup) -> list[JsonValue]:
    return [tool.to_openai() for tool in group.task.tools]


def _total(trajectory: Trajectory) -> float:
    return trajectory.reward.total if trajectory.reward else 0.0


def _each(row: Callable[[ScoredGroup, Trajectory], JsonObject]) -> Rows:
    return lambda group, kept: [row(group, one) for one in kept]


ROWS: dict[DataFormat, Rows] = {
    DataFormat.SHAREGPT: _each(row_of),
    DataFormat.OPENAI: _each(_openai_row),
    DataFormat.GROUPS: _group_rows,
    DataFormat.PAIRS: _pair_rows,
}
