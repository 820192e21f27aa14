"""Long output of a tool: head and tail are shown, and the whole lies in the sandbox, where the policy can page it."""

import pytest

from backends.base import SandboxLost, SandboxPathError, SandboxSpec
from backends.errors import PathProblem
from core.types import JsonObject, ToolSpec, Trajectory
from environments.agent_loop import EpisodeLimits
from environments.base import Tool
from environments.episode import Arena, run_episode
from environments.long_output import shown
from environments.tool_context import ToolContext
from environments.tools.files import file_tools
from environments.tools.terminal import terminal_tools
from tests.environments.sandboxes import any_backend
from tests.fakes import FakeBackend, FakePolicy, FakeSandbox, Sums, call, object_schema

LONG = "".join(f"line {number}\n" for number in range(3000))


class Refuses(FakeSandbox):
    """Writes fail with this error, those outside of /workspace where `only_workspace`."""

    def __init__(self, error: Exception, only_outside: bool) -> None:
        super().__init__(0, lambda argv: None)  # type: ignore[arg-type, return-value]
        self._error, self._only_outside = error, only_outside

    async def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        if not self._only_outside or not path.startswith("/workspace"):
            raise self._error
        await super().write(path, data)


async def play(backend: object, *lines: str, tools: tuple[Tool, ...], limit: int = 200) -> Trajectory:
    environment = Sums(tools)
    limits = EpisodeLimits(tool_output_characters=limit)
    return await run_episode(Arena(environment, FakePolicy(lines), backend, limits), environment.task(2), "e")  # type: ignore[arg-type]


def long(answer: str = LONG) -> Tool:
    async def run(context: ToolContext, arguments: JsonObject) -> str:
        return answer

    return Tool(ToolSpec(name="long", description="", parameters=object_schema()), run)


def answers(trajectory: Trajectory) -> list[str]:
    return [message.content for turn in trajectory.turns for message in turn.observations]


async def test_the_answer_shows_head_and_tail_and_says_where_the_whole_lies():
    backend = FakeBackend()
    (text,) = answers(await play(backend, call("long"), "done", tools=(long(),)))
    assert len(text) == 200
    assert text.startswith("line 0\n")
    assert text.endswith("line 2999\n")
    assert f"all {len(LONG)} characters: /tmp/tool_output/0000.txt" in text
    assert backend.made[0].content["/tmp/tool_output/0000.txt"].decode() == LONG


async def test_each_call_of_an_episode_has_a_file_of_its_own():
    backend = FakeBackend()
    await play(backend, call("look", path="x") + call("long"), call("long"), "done", tools=(long(),))
    assert [path for path in backend.made[0].content if "tool_output" in path] == [
        "/tmp/tool_output/0001.txt",
        "/tmp/tool_output/0002.txt",
    ]


async def test_an_answer_that_is_not_long_is_itself_and_stored_nowhere():
    backend = FakeBackend()
    assert answers(await play(backend, call("long"), "done", tools=(long("a" * 200),))) == ["a" * 200]
    assert backend.made[0].content == {}


async def test_a_backend_that_shows_its_workspace_only_stores_it_there():
    sandbox = Refuses(SandboxPathError("outside", problem=PathProblem.ESCAPES), True)
    text = await shown(LONG, 200, 7, ToolContext(sandbox))  # type: ignore[arg-type]
    assert "/workspace/.tool_output/0007.txt" in text


async def test_where_the_disk_is_full_the_middle_is_left_out():
    sandbox = Refuses(SandboxPathError("no space left", problem=PathProblem.NO_SPACE), only_outside=False)
    text = await shown("a" * 500 + "z" * 500, 100, 0, ToolContext(sandbox))  # type: ignore[arg-type]
    assert (len(text), text[0], text[-1]) == (100, "a", "z")
    assert "900 characters left out" in text
    assert sandbox.content == {}


async def test_a_sandbox_that_is_gone_is_not_taken_for_a_full_disk():
    with pytest.raises(SandboxLost):
        await shown(LONG, 200, 0, ToolContext(Refuses(SandboxLost("gone"), False)))  # type: ignore[arg-type]


async def test_the_policy_pages_it_in_a_real_sandbox():
    async with any_backend() as backend:
        print_it = "for n in $(seq 3000); do echo number $n; done"
        path = "$(ls /tmp/tool_output/0000.txt .tool_output/0000.txt 2> /dev/null)"
        trajectory = await play(
            backend,
            call("terminal", command=print_it),
            call("terminal", command=f"sed -n 1500,1501p {path}"),
            "done",
            tools=(*terminal_tools(), *file_tools()),
            limit=1000,
        )
        first, second = answers(trajectory)
    assert "all 34893 characters: /" in first
    assert second == "number 1500\nnumber 1501\n"


async def test_a_link_that_the_policy_put_there_leads_nowhere_outside_of_its_sandbox(tmp_path):
    async with any_backend() as backend:
        context = ToolContext(await backend.create(SandboxSpec()))
        await context.bash(f"ln -s {tmp_path} /tmp/tool_output; ln -s {tmp_path} /workspace/.tool_output")
        text = await shown(LONG, 200, 0, context)
    assert len(text) == 200
    assert list(tmp_path.iterdir()) == []
