"""SFT data: rows of episodes that earned enough, in a file that only grows and can be taken up again."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from backends.base import SandboxSpec
from core.errors import BadData, ConfigError, UserError
from core.types import JsonObject
from environments.base import Split
from environments.episode import Arena
from environments.gold_policy import GoldPolicy
from environments.group import run_group
from environments.policy import Completion, CompletionRequest
from environments.process import ProcessConfig, RowFile, generate
from environments.sharegpt import from_sharegpt
from tests.fakes import FakeBackend, FakePolicy, FakeSandbox, Sums

SUMS = Sums()
GOLD = GoldPolicy(SUMS.gold)


class HalfGold:
    """Right for even episodes of a group, silent for odd ones."""

    async def complete(self, request: CompletionRequest) -> Completion:
        right = int(request.episode_id.rpartition("-")[2]) % 2 == 0
        return await (GOLD if right else FakePolicy(["no idea"])).complete(request)

    async def aclose(self) -> None:
        """Nothing is open."""


class StopsAt(FakeBackend):
    """Says when the n-th sandbox is asked for, and never makes it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number, self.reached = number, asyncio.Event()

    async def create(self, spec: SandboxSpec, **asked: object) -> FakeSandbox:
        if len(self.made) == self._number:
            self.reached.set()
            await asyncio.Event().wait()
        return await super().create(spec)


class NoSandboxes(FakeBackend):
    async def create(self, spec: SandboxSpec, **asked: object) -> FakeSandbox:
        raise OSError("none left")


def rows(path: Path) -> list[JsonObject]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


async def test_rows_hold_the_conversation_and_its_reward(tmp_path: Path):
    report = await generate(Arena(SUMS, GOLD, FakeBackend()), ProcessConfig(groups=1, group_size=1), tmp_path / "f.jsonl")
    (row,) = rows(tmp_path / "f.jsonl")
    assert (report.groups, report.rows) == (1, 1)
    assert (row["id"], row["task_id"], row["reward"]) == ("sums-train-000000-0", "sum-0", 1.0)
    assert [entry["from"] for entry in row["conversations"]] == ["system", "human", "gpt", "tool", "gpt", "tool"]
    assert from_sharegpt(row["conversations"]).tools == SUMS.task(0).tools


async def test_episodes_below_the_minimum_are_left_out_and_counted(tmp_path: Path):
    config = ProcessConfig(groups=3, group_size=4, min_reward=0.5)
    report = await generate(Arena(SUMS, HalfGold(), FakeBackend()), config, tmp_path / "f.jsonl")
    assert (report.rows, report.left_out) == (6, {"min_reward": 6})
    assert {row["reward"] for row in rows(tmp_path / "f.jsonl")} == {1.0}


async def test_tasks_are_played_again_where_there_are_fewer_than_groups(tmp_path: Path):
    config = ProcessConfig(groups=10, group_size=1, split=Split.HELD_OUT)
    await generate(Arena(SUMS, GOLD, FakeBackend()), config, tmp_path / "f.jsonl")
    assert sorted(row["task_id"] for row in rows(tmp_path / "f.jsonl"))[:3] == ["sum-100"] * 3


async def test_a_run_that_ended_early_is_taken_up_without_a_double_or_lost_row(tmp_path: Path):
    config, out = ProcessConfig(groups=9, group_size=2, concurrent_groups=2), tmp_path / "f.jsonl"
    backend = StopsAt(9)
    running = asyncio.create_task(generate(Arena(SUMS, GOLD, backend), config, out))
    await backend.reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    before = out.read_bytes()
    report = await generate(Arena(SUMS, GOLD, FakeBackend()), config, out)
    assert before
    assert out.read_bytes().startswith(before)
    assert sorted(str(row["id"]) for row in rows(out)) == [
        f"sums-train-{group:06d}-{one}" for group in range(9) for one in (0, 1)
    ]
    assert (report.groups, report.rows) == (9, 18)


@pytest.mark.parametrize("torn", [b'{"id": "half a row', b'{"id": "a whole row of a group that was not finished"}\n'])
async def test_what_a_killed_run_left_behind_its_last_group_is_dropped(tmp_path: Path, torn: bytes):
    out = tmp_path / "f.jsonl"
    await generate(Arena(SUMS, GOLD, FakeBackend()), ProcessConfig(groups=1, group_size=2), out)
    with out.open("ab") as file:
        file.write(torn)
    await generate(Arena(SUMS, GOLD, FakeBackend()), ProcessConfig(groups=2, group_size=2), out)
    assert len(rows(out)) == 4


async def test_a_progress_line_that_was_cut_is_played_again(tmp_path: Path):
    out, progress = tmp_path / "f.jsonl", tmp_path / "f.jsonl.progress"
    config = ProcessConfig(groups=3, group_size=1)
    await generate(Arena(SUMS, GOLD, FakeBackend()), config, out)
    os.truncate(progress, progress.stat().st_size - 5)
    await generate(Arena(SUMS, GOLD, FakeBackend()), config, out)
    assert sorted(str(row["id"]) for row in rows(out)) == [f"sums-train-{group:06d}-0" for group in range(3)]


@pytest.mark.parametrize(
    ("row", "broken", "problem"),
    [
        (1, "{", "row 1: Expecting property name"),
        (2, "{", "row 2: row: Invalid JSON"),
        (3, '{"group": 1, "end": "x", "rows": 1, "left_out": {}, "lost": 0}', "row 3: end: Input should be a valid integer"),
    ],
)
async def test_a_broken_progress_file_is_told_by_row_and_field(row: int, broken: str, problem: str, tmp_path: Path):
    out, progress = tmp_path / "f.jsonl", tmp_path / "f.jsonl.progress"
    config = ProcessConfig(groups=3, group_size=1)
    await generate(Arena(SUMS, GOLD, FakeBackend()), config, out)
    before = out.read_bytes()
    lines = progress.read_text().splitlines()
    lines[row - 1] = broken
    progress.write_text("\n".join(lines) + "\n")
    with pytest.raises(BadData) as raised:
        await generate(Arena(SUMS, GOLD, FakeBackend()), config, out)
    assert str(raised.value).startswith(f"{progress}: {problem}")
    assert out.read_bytes() == before


async def test_rows_that_were_cut_away_by_somebody_else_are_told(tmp_path: Path):
    out, config = tmp_path / "f.jsonl", ProcessConfig(groups=3, group_size=1)
    await generate(Arena(SUMS, GOLD, FakeBackend()), config, out)
    os.truncate(out, 10)
    with pytest.raises(ConfigError, match="has 10 bytes"):
        await generate(Arena(SUMS, GOLD, FakeBackend()), config, out)
    assert out.stat().st_size == 10


async def test_a_finished_run_plays_nothing_more(tmp_path: Path):
    config, backend = ProcessConfig(groups=2, group_size=1), FakeBackend()
    await generate(Arena(SUMS, GOLD, FakeBackend()), config, tmp_path / "f.jsonl")
    await generate(Arena(SUMS, GOLD, backend), config, tmp_path / "f.jsonl")
    assert backend.made == []


async def test_a_group_that_was_lost_whole_is_counted_and_played_again_by_the_next_run(tmp_path: Path):
    config, out = ProcessConfig(groups=2, group_size=2), tmp_path / "f.jsonl"
    lost = await generate(Arena(SUMS, GOLD, NoSandboxes()), config, out)
    again = await generate(Arena(SUMS, GOLD, FakeBackend()), config, out)
    assert (lost.groups, lost.lost, again.rows) == (0, 4, 4)


async def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path):
    (tmp_path / "f.jsonl").write_text("precious\n")
    with pytest.raises(ConfigError, match="choose another file"):
        await generate(Arena(SUMS, GOLD, FakeBackend()), ProcessConfig(), tmp_path / "f.jsonl")
    assert (tmp_path / "f.jsonl").read_text() == "precious\n"


async def test_a_file_made_with_other_settings_is_refused(tmp_path: Path):
    arena = Arena(SUMS, GOLD, FakeBackend())
    await generate(arena, ProcessConfig(groups=1, group_size=1), tmp_path / "f.jsonl")
    with pytest.raises(ConfigError, match="was made with"):
        await generate(arena, ProcessConfig(groups=1, group_size=2), tmp_path / "f.jsonl")


async def test_a_file_that_is_being_written_is_refused(tmp_path: Path):
    with RowFile(tmp_path / "f.jsonl", {}), pytest.raises(ConfigError, match="another process"):
        await generate(Arena(SUMS, GOLD, FakeBackend()), ProcessConfig(groups=1), tmp_path / "f.jsonl")


async def test_a_folder_that_is_not_there_is_made_and_one_that_cannot_be_is_told_in_one_line(tmp_path: Path):
    arena, config = Arena(SUMS, GOLD, FakeBackend()), ProcessConfig(groups=1)
    made = tmp_path / "not" / "there" / "f.jsonl"
    await generate(arena, config, made)
    assert made.is_file()
    with pytest.raises(UserError, match=r"g.jsonl: (Not a directory|File exists)$"):
        await generate(arena, config, made / "g.jsonl")


async def test_a_full_disk_leaves_whole_rows_that_can_be_resumed(tmp_path: Path):
    import resource

    out, config = tmp_path / "f.jsonl", ProcessConfig(groups=6, group_size=2, concurrent_groups=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, before[1]))
    try:
        with pytest.raises(UserError, match="can be resumed"):
            await generate(Arena(SUMS, GOLD, FakeBackend()), config, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert 0 < len(rows(out)) < 12
    await generate(Arena(SUMS, GOLD, FakeBackend()), config, out)
    assert len({str(row["id"]) for row in rows(out)}) == len(rows(out)) == 12


async def test_rows_that_nothing_tells_of_are_taken_back(tmp_path: Path):
    import resource

    out, config = tmp_path / "f.jsonl", ProcessConfig()
    arena, task = Arena(SUMS, GOLD, FakeBackend()), SUMS.tasks(Split.TRAIN)[0]
    lost, kept = await run_group(arena, task, 1, "lost"), await run_group(arena, task, 1, "kept")
    header: JsonObject = {"long": "x" * 20_000}  # so that the disk is full for the progress before it is for the rows
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RowFile(out, header) as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{out}.progress").stat().st_size, before[1]))
        try:
            with pytest.raises(UserError, match="can be resumed"):
                file.append(0, lost, config)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        file.append(1, kept, config)
    with RowFile(out, header) as file:
        assert list(file.done) == [1]
    assert [row["id"] for row in rows(out)] == ["kept-0"]


async def test_a_duplicate_of_an_earlier_run_is_left_out(tmp_path: Path):
    arena, out = Arena(SUMS, GOLD, FakeBackend()), tmp_path / "f.jsonl"
    tasks = len(SUMS.tasks(Split.HELD_OUT))
    first = ProcessConfig(groups=tasks, group_size=2, split=Split.HELD_OUT, unique=True)
    await generate(arena, first, out)
    report = await generate(arena, first.model_copy(update={"groups": 2 * tasks}), out)
    assert (report.rows, report.left_out) == (tasks, {"duplicate": 3 * tasks})
