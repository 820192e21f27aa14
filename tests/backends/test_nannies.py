"""The processes that run commands: one is kept between commands, and nothing of a command stays in it."""

import pytest

from backends.agent_sandbox import AgentSandbox
from backends.base import Process

WORK_LIMIT_SECONDS = 60


async def nanny_of(sandbox: AgentSandbox, after: str = ":") -> bytes:
    """The pid of the process that runs a command, which then does something else."""
    result = await sandbox.exec(["bash", "-c", f"echo $PPID; {after}"], timeout_seconds=WORK_LIMIT_SECONDS)
    assert result.exit_code == 0
    return result.stdout


async def started(sandbox: AgentSandbox, program: str) -> Process:
    """A Python program that runs beside commands and has said that it is at work."""
    process = await sandbox.spawn(["python3", "-I", "-S", "-c", program])
    assert await process.receive() == b"at work\n"
    return process


async def test_a_nanny_that_is_through_runs_the_next_command(sandbox: AgentSandbox):
    assert await nanny_of(sandbox) == await nanny_of(sandbox)


async def test_one_whose_command_left_something_behind_is_not_kept(sandbox: AgentSandbox):
    assert await nanny_of(sandbox, "sleep 4600 &") != await nanny_of(sandbox)


async def test_a_command_longer_than_a_message_runs(sandbox: AgentSandbox):
    await nanny_of(sandbox)
    result = await sandbox.exec(["printf", "%s", "x" * 100_000], timeout_seconds=WORK_LIMIT_SECONDS)
    assert result.stdout == b"x" * 100_000


SETTINGS = {
    "directory": "pwd; cd /tmp",
    "mask": "umask; umask 0",
    "limits": "ulimit -a; ulimit -f 1; ulimit -n 20",
    "variables": "export -p; export PATH=/nowhere LEFT=1",
    "signals": "trap; trap '' PIPE INT TERM",
    "output that does not block": "grep flags /proc/self/fdinfo/1; python3 -I -S -c 'import os; os.set_blocking(1, False)'",
}


@pytest.mark.parametrize("setting", SETTINGS)
async def test_what_a_command_sets_for_itself_is_gone_with_it(sandbox: AgentSandbox, setting: str):
    command = ["bash", "-c", SETTINGS[setting]]
    first, second = [await sandbox.exec(command, timeout_seconds=WORK_LIMIT_SECONDS, cwd=".") for _ in range(2)]
    assert (first.stdout, first.stderr) == (second.stdout, b"")


async def test_a_directory_and_a_path_of_variables_hold_for_one_command(sandbox: AgentSandbox):
    await sandbox.write("bin/ours", b"#!/bin/sh\npwd\n", mode=0o755)
    path = {"PATH": "/usr/bin:/bin:./bin"}
    found = await sandbox.exec(["ours"], timeout_seconds=WORK_LIMIT_SECONDS, env=path)
    missing = await sandbox.exec(["ours"], timeout_seconds=WORK_LIMIT_SECONDS)
    elsewhere = await sandbox.exec(["ours"], timeout_seconds=WORK_LIMIT_SECONDS, env=path, cwd="/tmp")
    assert (found.exit_code, missing.exit_code, elsewhere.exit_code) == (0, 127, 127)


# every process that it sees but the first and its own line of ancestors
OTHERS = """
import os, signal, sys
print("at work", flush=True)
sys.stdin.readline()
mine, pid = {1}, os.getpid()
while pid > 1:
    mine.add(pid)
    pid = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
others = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in mine]
for pid in others:
    os.kill(pid, signal.SIGNAL)
while signal.SIGNAL != signal.SIGSTOP and any(os.path.exists(f"/proc/{pid}") for pid in others):
    pass  # a command that is given to a process which is about to end ends with it
print("done", flush=True)
signal.pause()
"""


@pytest.mark.parametrize(("signal", "same"), [("SIGKILL", False), ("SIGTERM", False), ("SIGSTOP", True)])
async def test_a_nanny_that_waits_can_be_signalled_without_harm(walled: AgentSandbox, signal: str, same: bool):
    hostile = await started(walled, OTHERS.replace("SIGNAL", signal))
    waiting = await nanny_of(walled)
    await hostile.send(b"go\n")
    assert await hostile.receive() == b"done\n"
    assert (await nanny_of(walled) == waiting) is same
    await hostile.kill()


# descriptors on their way in messages are counted for a user, across all of its sandboxes
IN_FLIGHT = """
import array, resource, socket, time
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
kept, sent = [], 0
many = array.array("i", [0] * 250)
try:
    while sent <= most:
        ours, theirs = socket.socketpair()
        kept += [ours, theirs]
        ours.setblocking(False)
        try:
            while True:
                ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, many)])
                sent += len(many)
        except BlockingIOError:
            pass
except OSError:
    pass  # too many
print("at work", flush=True)
time.sleep(4600)
"""


async def test_commands_run_where_the_kernel_passes_on_no_more_descriptors(sandbox: AgentSandbox):
    hostile = await started(sandbox, IN_FLIGHT)
    await nanny_of(sandbox)
    await nanny_of(sandbox)
    await hostile.kill()


async def test_a_nanny_that_waits_is_not_counted(sandbox: AgentSandbox):
    await nanny_of(sandbox)
    assert (await sandbox.stats()).processes == 1
