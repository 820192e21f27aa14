"""Commands in sandboxes: what comes back, and that nothing outlives them."""

import asyncio

import pytest

from backends.agent_sandbox import AgentSandbox
from backends.base import SandboxError, SandboxSpec
from tests.backends.conftest import AnyBackend
from tests.backends.processes import processes_with

FOREVER = 4000  # seconds; a test ends long before


def sleeper(mark: int) -> str:
    return f"sleep {FOREVER}.{mark}"


async def test_exit_code_and_both_streams_come_back(sandbox: AgentSandbox):
    result = await sandbox.exec(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_seconds=10)
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"out\n", b"err\n")


async def test_bytes_that_are_no_text_pass_unchanged(sandbox: AgentSandbox):
    data = bytes(range(256)) * 20_000
    result = await sandbox.exec(["cat"], timeout_seconds=10, stdin=data, max_output=len(data))
    assert result.stdout == data


async def test_a_command_that_reads_no_input_does_not_wait_for_it(sandbox: AgentSandbox):
    result = await sandbox.exec(["true"], timeout_seconds=10, stdin=b"x" * 1_000_000)
    assert result.exit_code == 0


async def test_a_killed_command_has_no_exit_code(sandbox: AgentSandbox):
    result = await sandbox.exec(["sh", "-c", "kill -9 $$"], timeout_seconds=10)
    assert (result.exit_code, result.timed_out) == (None, False)


async def test_a_program_that_does_not_exist_ends_as_in_a_shell(sandbox: AgentSandbox):
    result = await sandbox.exec(["no-such-program"], timeout_seconds=10)
    assert (result.exit_code, result.stderr) == (127, b"cannot run no-such-program in /workspace: No such file or directory\n")


async def test_a_directory_that_does_not_exist_is_named(sandbox: AgentSandbox):
    result = await sandbox.exec(["true"], timeout_seconds=10, cwd="nowhere")
    assert (result.exit_code, result.stderr) == (127, b"cannot run true in nowhere: No such file or directory\n")


@pytest.mark.parametrize("argv", [[], ["echo", "a\0b"]])
async def test_a_command_that_no_program_can_be_given_is_refused(sandbox: AgentSandbox, argv: list[str]):
    with pytest.raises(SandboxError):
        await sandbox.exec(argv, timeout_seconds=10)


async def test_relative_and_absolute_directories_lie_in_the_workspace(sandbox: AgentSandbox):
    await sandbox.write("sub/here", b"")
    relative = await sandbox.exec(["ls"], timeout_seconds=10, cwd="sub")
    absolute = await sandbox.exec(["ls"], timeout_seconds=10, cwd="/workspace/sub")
    assert (relative.stdout, absolute.stdout) == (b"here\n", b"here\n")


async def test_commands_at_the_same_time_do_not_mix(sandbox: AgentSandbox):
    results = await asyncio.gather(*(sandbox.exec(["echo", str(n)], timeout_seconds=20) for n in range(32)))
    assert [result.stdout for result in results] == [f"{n}\n".encode() for n in range(32)]


async def test_output_over_the_cap_keeps_its_head_and_its_tail(sandbox: AgentSandbox):
    result = await sandbox.exec(["sh", "-c", "echo first; seq 1 2000000; echo last"], timeout_seconds=60, max_output=1000)
    assert result.truncated
    assert len(result.stdout) == 1000
    assert result.stdout.startswith(b"first\n1\n")
    assert result.stdout.endswith(b"\n2000000\nlast\n")


async def test_output_at_the_cap_is_whole(sandbox: AgentSandbox):
    result = await sandbox.exec(["sh", "-c", "printf 12345"], timeout_seconds=10, max_output=5)
    assert (result.stdout, result.truncated) == (b"12345", False)


async def test_a_timeout_is_a_result_that_keeps_what_was_printed(sandbox: AgentSandbox):
    result = await sandbox.exec(["sh", "-c", f"echo begun; {sleeper(1)}"], timeout_seconds=0.5)
    assert (result.exit_code, result.timed_out, result.stdout) == (None, True, b"begun\n")


async def test_a_running_command_is_seen_from_outside(sandbox: AgentSandbox):
    """Or else the tests that count survivors would prove nothing."""
    running = asyncio.create_task(sandbox.exec(["sh", "-c", f"touch begun; {sleeper(6)}; :"], timeout_seconds=60))
    while not await sandbox.files():
        await asyncio.sleep(0.01)
    assert processes_with(f"{FOREVER}.6")
    running.cancel()


ESCAPES = {
    "child": "{s} & wait",
    "new session": "setsid {s} & wait",
    "double fork": "(setsid sh -c '{s} & exit' &); {s}",
    "deaf to SIGTERM": "(trap '' TERM HUP INT; {s}; {s}) & wait",
    "nohup": "nohup {s} >/dev/null 2>&1 & wait",
    "stopped": "{s} & kill -STOP $!; wait",
    "respawner": "while true; do setsid sh -c '{s} & {s}' & sleep 0.01; done",
}


@pytest.mark.parametrize("escape", ESCAPES)
async def test_a_timeout_kills_what_tries_to_escape(sandbox: AgentSandbox, escape: str):
    mark = 7000 + list(ESCAPES).index(escape)
    result = await sandbox.exec(["sh", "-c", ESCAPES[escape].format(s=sleeper(mark))], timeout_seconds=0.5)
    assert result.timed_out
    assert processes_with(f"{FOREVER}.{mark}") == []


async def test_a_timeout_kills_a_program_that_forks_for_ever(sandbox: AgentSandbox):
    program = "import os, sys\nwhile True:\n    if os.fork():\n        os._exit(0)\n    os.setsid()  # re-forking-daemon"
    result = await sandbox.exec(["sh", "-c", f'python3 -S -c "{program}"; {sleeper(2)}'], timeout_seconds=1)
    assert result.timed_out
    assert processes_with("re-forking-daemon") == []


async def test_what_a_command_leaves_behind_is_killed_when_it_ends(sandbox: AgentSandbox):
    result = await sandbox.exec(["sh", "-c", f"setsid {sleeper(3)} & echo done"], timeout_seconds=10)
    assert (result.exit_code, result.stdout) == (0, b"done\n")
    assert processes_with(f"{FOREVER}.3") == []


async def test_one_commands_end_spares_another(sandbox: AgentSandbox):
    slow = asyncio.create_task(sandbox.exec(["sh", "-c", "sleep 1; echo alive"], timeout_seconds=20))
    await sandbox.exec(["sh", "-c", f"setsid {sleeper(4)}"], timeout_seconds=0.2)
    assert (await slow).stdout == b"alive\n"


async def test_cancelling_kills_the_command(sandbox: AgentSandbox):
    running = asyncio.create_task(sandbox.exec(["sh", "-c", f"touch begun; {sleeper(5)}"], timeout_seconds=60))
    while not await sandbox.files():
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await sandbox.alive()  # answered after the cancellation was carried out
    assert processes_with(f"{FOREVER}.5") == []


async def test_the_environment_is_made_from_scratch(backend: AnyBackend, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NATGYM_TEST_SECRET", "of the host")
    sandbox = await backend.create(SandboxSpec(env={"GIVEN": "yes"}))
    printed = (await sandbox.exec(["env"], timeout_seconds=10)).stdout.decode()
    names = {line.partition("=")[0] for line in printed.splitlines()}
    assert names <= {"GIVEN", "PATH", "HOME", "TMPDIR", "LANG", "LC_CTYPE", "TERM", "PWD"}


async def test_a_command_gets_three_descriptors_and_no_more(sandbox: AgentSandbox):
    listing = "import os; print([n for n in range(1000) if not os.system(f'test -e /proc/{os.getpid()}/fd/{n}')])"
    result = await sandbox.exec(["python3", "-I", "-S", "-c", listing.replace("1000", "40")], timeout_seconds=30)
    assert result.stdout == b"[0, 1, 2]\n"
