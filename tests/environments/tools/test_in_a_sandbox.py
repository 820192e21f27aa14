"""The shell, Python and files of an episode, in a real sandbox."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from pydantic import JsonValue

from backends.base import SandboxPathError
from core.types import JsonObject, Task
from environments.base import Tool, ToolMistake
from environments.episode import Arena, run_episode
from environments.tool_context import ToolContext
from environments.tools.calls import as_call
from environments.tools.files import file_tools
from environments.tools.python_repl import python_tools
from environments.tools.terminal import terminal_tools
from environments.tools.todo import todo_tools
from tests.environments.sandboxes import any_backend, any_context
from tests.fakes import FakePolicy, Sums

TOOLS: dict[str, Tool] = {tool.spec.name: tool for tool in (*terminal_tools(), *file_tools(), *python_tools(), *todo_tools())}


@pytest.fixture
async def context() -> AsyncIterator[ToolContext]:
    async with any_context() as context:
        yield context


async def use(context: ToolContext, name: str, **arguments: JsonValue) -> str:
    return await TOOLS[name].run(context, arguments)


async def test_the_shell_keeps_its_directory_variables_and_functions(context: ToolContext):
    assert await use(context, "terminal", command="mkdir -p a/b; cd a/b; export NAME=x; shout() { echo $1!; }") == "(no output)"
    assert await use(context, "terminal", command="pwd; echo $NAME; shout hey") == "/workspace/a/b\nx\nhey!\n"


async def test_a_command_that_failed_says_so_and_leaves_the_shell_as_it_was(context: ToolContext):
    assert await use(context, "terminal", command="KEPT=1; echo oops >&2; false") == "oops\n[exit code 1]"
    assert await use(context, "terminal", command="echo $KEPT") == "1\n"


async def test_a_command_that_takes_too_long_ends_the_shell_and_the_next_one_has_another(context: ToolContext):
    told = await use(context, "terminal", command="GONE=1; echo begun; sleep 100", timeout_seconds=1)
    assert told == "begun\n[stopped after 1 seconds; the session has ended; the next call starts a fresh one]"
    assert await use(context, "terminal", command="echo [$GONE]") == "[]\n"


async def test_python_keeps_what_was_defined_and_shows_the_last_value(context: ToolContext):
    assert await use(context, "python_repl", code="import math\nradius = 3") == "(no output)"
    assert await use(context, "python_repl", code="print('area')\nround(math.pi * radius ** 2, 2)") == "area\n28.27\n"


async def test_python_that_raises_shows_its_trace_and_goes_on(context: ToolContext):
    told = await use(context, "python_repl", code="x = 1\n1 / 0")
    assert "ZeroDivisionError: division by zero" in told
    assert await use(context, "python_repl", code="x") == "1\n"


async def test_a_file_is_written_read_with_numbers_and_patched(context: ToolContext):
    assert await use(context, "write_file", path="src/a.py", content="one\ntwo\nthree\n") == "src/a.py written, 3 lines"
    assert await use(context, "patch", path="src/a.py", old="two", new="2") == "src/a.py patched, 1 place"
    assert await use(context, "read_file", path="src/a.py") == "1\tone\n2\t2\n3\tthree"
    assert await use(context, "read_file", path="src/a.py", first_line=2, lines=1) == "2\t2\n... 1 more lines, from 3 on"


async def test_a_patch_that_is_not_clear_changes_nothing_and_says_why(context: ToolContext):
    await context.write_text("a.py", "if x:\n    go()\nif x:\n    go()\n")
    for arguments, problem in [
        (
            {"old": "\tgo()", "new": ""},
            r"does not contain the old text; line 2 has its first line with other spaces: '    go\(\)'",
        ),
        ({"old": "go()", "new": ""}, "contains the old text 2 times"),
        ({"old": "", "new": "x"}, "old: is empty"),
    ]:
        with pytest.raises(ToolMistake, match=problem):
            await use(context, "patch", path="a.py", **arguments)
    assert await use(context, "patch", path="a.py", old="go()", new="stop()", everywhere=True) == "a.py patched, 2 places"
    assert await context.read_text("a.py") == "if x:\n    stop()\nif x:\n    stop()\n"


async def test_a_file_that_is_no_text_is_not_patched(context: ToolContext):
    await context.write("a.bin", b"\xff\xfe1")
    with pytest.raises(ToolMistake, match=r"a\.bin: is no text"):
        await use(context, "patch", path="a.bin", old="1", new="2")
    assert await context.read("a.bin") == b"\xff\xfe1"


async def test_files_that_are_not_there_or_lead_outside_are_told(context: ToolContext):
    for path in ("missing.py", "../../etc/passwd", "a\0b"):
        with pytest.raises(SandboxPathError):
            await use(context, "read_file", path=path)
    await context.write_text("empty", "")
    assert await use(context, "read_file", path="empty") == "(the file is empty)"
    await context.write_text("long", "x")
    with pytest.raises(ToolMistake, match="first_line: 9, but long has 1 lines"):
        await use(context, "read_file", path="long", first_line=9)


async def test_search_finds_lines_and_reads_nothing_as_an_option(context: ToolContext):
    await context.upload({"src/a.py": b"alpha = 1\nbeta = 2\n", "src/b.py": b"beta = 3\n", ".git/c": b"beta\n"})
    assert await use(context, "search_files", pattern="^beta") == "src/a.py:2:beta = 2\nsrc/b.py:1:beta = 3"
    assert await use(context, "search_files", pattern="--version") == "no match"
    assert await use(context, "search_files", pattern="gamma", path="src") == "no match"
    with pytest.raises(ToolMistake, match="No such file"):
        await use(context, "search_files", pattern="x", path="--help")
    with pytest.raises(ToolMistake, match=r"[Uu]nmatched"):
        await use(context, "search_files", pattern="(")


async def test_a_list_of_steps_is_kept_for_one_episode_and_no_other(context: ToolContext):
    assert await use(context, "todo", items=[{"text": "look", "state": "done"}, {"text": "mend"}]) == (
        "[x] look\n[ ] mend\n1 of 2 done"
    )
    assert (await use(context, "todo")).endswith("1 of 2 done")
    async with any_context() as other:
        assert await use(other, "todo") == "0 of 0 done"


async def test_a_reward_sees_the_files_that_tools_left_byte_for_byte(context: ToolContext, tmp_path: Path):
    every_byte = bytes(range(256)) * 300
    await context.upload({"in/data.bin": every_byte, "in/deep/x.txt": b"x"})
    assert await context.read("in/data.bin") == every_byte
    (taken := tmp_path / "taken").mkdir()
    assert await context.download("in", taken) == ("data.bin", "deep/x.txt")
    assert (taken / "data.bin").read_bytes() == every_byte
    assert (await context.run(["cat", "in/data.bin"])).stdout == every_byte


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("terminal", {"command": "echo a\0b"}),
        ("python_repl", {"code": "1\0"}),
        ("search_files", {"pattern": "a\0"}),
        ("search_files", {"pattern": "x" * 300_000}),
        ("write_file", {"path": "a\0b", "content": ""}),
        ("write_file", {"path": "x" * 5000, "content": ""}),
        ("write_file", {"path": "big", "content": "x" * 100_000_000}),
        ("read_file", {"path": "/proc/kmsg"}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
async def test_what_no_sandbox_can_do_is_an_answer_and_no_failure(name: str, arguments: JsonObject):
    class Offering(Sums):
        def tools(self, task: Task) -> Sequence[Tool]:
            return (TOOLS[name],)

    environment = Offering([TOOLS[name]])
    async with any_backend() as backend:
        arena = Arena(environment, FakePolicy([as_call(name, **arguments), ""]), backend)
        trajectory = await run_episode(arena, environment.task(1), "e")
    assert trajectory.reward, trajectory.failure
    assert trajectory.turns[0].observations[0].content


@pytest.mark.parametrize("command", ["touch a; chmod 000 .", "rm -rf *"])
async def test_a_workspace_that_a_policy_made_unreadable_holds_no_files(context: ToolContext, command: str):
    await context.write_text("kept", "x")
    await context.bash(command)
    assert await context.files() in ((), ("a", "kept"))  # root reads what is forbidden to others
