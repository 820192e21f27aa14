"""Every format that `natgym process` writes is read back to the same demonstrations, and a broken row is told by field."""

import json
from pathlib import Path

import pytest

from core.errors import BadData
from core.types import JsonObject
from environments.data_formats import DataFormat, write_parquet
from environments.demonstrations import Demonstration, demonstrations_of, read_demonstrations
from environments.episode import Arena
from environments.gold_policy import GoldPolicy
from environments.process import ProcessConfig, generate
from environments.rows import BrokenRows
from tests.environments.test_sharegpt import without_ids
from tests.fakes import FakeBackend, Sums

SUMS = Sums()
CALL = {"id": "c", "function": {"name": "add", "arguments": {"a": 1}}}
ASKED, SAID = {"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}


async def written(folder: Path, form: DataFormat) -> Path:
    out = folder / f"{form.value}.jsonl"
    config = ProcessConfig(groups=2, group_size=2, form=form, concurrent_groups=1)
    await generate(Arena(SUMS, GoldPolicy(SUMS.gold), FakeBackend()), config, out)
    return out


def read(path: Path) -> list[Demonstration]:
    return [one for _, found in read_demonstrations(path) for one in found]


def told(one: Demonstration) -> tuple[object, ...]:
    return without_ids(one.messages), one.tools, one.spoken


@pytest.mark.parametrize("form", [DataFormat.SHAREGPT, DataFormat.OPENAI, DataFormat.GROUPS])
@pytest.mark.parametrize("parquet", [False, True])
async def test_what_was_played_is_read_back(form: DataFormat, parquet: bool, tmp_path: Path):
    path = await written(tmp_path, form)
    if parquet:
        write_parquet(path, path.with_suffix(".parquet"))
        path = path.with_suffix(".parquet")
    found = read(path)
    assert [one.spoken for one in found] == [tuple(SUMS.gold(SUMS.task(number))) for number in (0, 0, 1, 1)]
    assert [one.tools for one in found] == [SUMS.task(0).tools] * 4
    assert [told(one) for one in found] == [told(one) for one in read(await written(tmp_path, DataFormat.SHAREGPT))]


def test_of_a_pair_the_better_one_is_read():
    row: JsonObject = {"prompt": [ASKED], "chosen": [SAID], "rejected": [{"role": "assistant", "content": "3"}]}
    assert demonstrations_of(row)[0].spoken == ("2",)


def test_arguments_as_an_object_and_content_in_parts_are_read():
    parts = [{"type": "text", "text": "1 +"}, {"type": "text", "text": " 1?"}]
    row: JsonObject = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "tool_calls": [CALL]}], "n": 1}
    (one,) = demonstrations_of(row)
    assert one.messages[0].content == "1 + 1?"
    assert one.spoken == ('<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text": "x"}, "expected a field conversations, messages, trajectories, chosen; found text"),
        ({"messages": []}, "the conversation: expected at least one message of the assistant"),
        ({"messages": [ASKED]}, "the conversation: expected at least one message of the assistant"),
        ({"messages": [SAID]}, "the conversation: expected a message before the assistant's first one"),
        ({"messages": [ASKED, {**SAID, "role": "bot"}]}, "messages.1.role: Input should be 'system', 'user'"),
        ({"messages": [ASKED, {**SAID, "tool_calls": [{}]}]}, "messages.1.tool_calls.0.function: Field required"),
        ({"messages": [ASKED, SAID], "tools": "{"}, "tools: expected JSON"),
        ({"messages": [ASKED, SAID], "tools": [{"function": {}}]}, "tools.0.function.name: Field required"),
        ({"conversations": "x"}, "conversations: Input should be a valid list, found 'x'"),
        ({"conversations": [{"from": "human", "value": 3}]}, "conversations[0]: expected from"),
        ({"trajectories": [], "id": "g"}, "environment: Field required"),
        ({"prompt": [ASKED], "chosen": []}, "chosen: List should have at least 1 item"),
    ],
)
def test_a_broken_row_is_told_by_file_number_and_field(row: JsonObject, problem: str, tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    good = json.dumps({"messages": [ASKED, SAID]})
    path.write_text(f"{good}\n{json.dumps(row)}\n")
    with pytest.raises(BadData) as raised:
        list(read_demonstrations(path))
    assert str(raised.value).startswith(f"{path}: row 2: {problem}")
    assert [number for number, _ in read_demonstrations(path, BrokenRows.SKIP)] == [1]
