"""Programs that run beside other commands."""

import asyncio
import hashlib

import pytest

from backends.agent_sandbox import AgentSandbox
from backends.base import Process, SandboxError, SandboxLost
from tests.backends.processes import processes_with


async def receive_all(process: Process) -> bytes:
    found = b""
    while data := await process.receive():
        found += data
    return found


async def send_for_ever(process: Process) -> None:
    """Once is not enough to notice an end: the kernel may close a program's output a moment before its input."""
    while True:
        await process.send(b"x")


async def test_what_is_sent_comes_back_from_an_echo(sandbox: AgentSandbox):
    process = await sandbox.spawn(["cat"])
    await process.send(b"one\n")
    first = await process.receive()
    await process.send(b"two\n")
    assert (first, await process.receive()) == (b"one\n", b"two\n")


async def test_output_ends_with_the_program(sandbox: AgentSandbox):
    process = await sandbox.spawn(["sh", "-c", "seq 1 100000"])
    assert (await receive_all(process)).endswith(b"\n99999\n100000\n")


async def test_output_ends_with_the_program_though_a_child_holds_the_pipe(sandbox: AgentSandbox):
    process = await sandbox.spawn(["sh", "-c", "setsid sleep 4100 & echo done"])
    assert await receive_all(process) == b"done\n"
    assert processes_with("sleep\x004100") == []


async def test_output_that_nobody_takes_holds_the_program_back(sandbox: AgentSandbox):
    process = await sandbox.spawn(["sh", "-c", "yes | head -c 300000; touch all-written"])
    await process.receive()
    assert await sandbox.files() == ()
    assert len(await receive_all(process)) > 200_000
    assert await sandbox.files() == ("all-written",)


async def test_a_receive_that_was_cancelled_loses_nothing(sandbox: AgentSandbox):
    process = await sandbox.spawn(["cat"])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.receive(), 0.05)
    await process.send(b"late")
    assert await process.receive() == b"late"


async def test_the_end_of_standard_error_is_kept(sandbox: AgentSandbox):
    process = await sandbox.spawn(["sh", "-c", "seq 1 100000 >&2; echo why it failed >&2"])
    assert await receive_all(process) == b""
    assert process.stderr_tail().endswith("100000\nwhy it failed\n")
    assert len(process.stderr_tail()) <= 4096


async def test_killing_it_kills_what_it_started(sandbox: AgentSandbox):
    process = await sandbox.spawn(["sh", "-c", "setsid sleep 4101 & sleep 0.2; echo up; wait"])
    await process.receive()
    assert processes_with("sleep\x004101")
    await process.kill()
    await process.kill()
    assert processes_with("sleep\x004101") == []


async def test_killing_ends_a_waiting_receive(sandbox: AgentSandbox):
    process = await sandbox.spawn(["sleep", "4102"])
    receiving = asyncio.create_task(process.receive())
    await asyncio.sleep(0)
    await process.kill()
    assert await receiving == b""


async def test_sending_to_a_program_that_ended_is_an_error(sandbox: AgentSandbox):
    process = await sandbox.spawn(["true"])
    await receive_all(process)
    with pytest.raises(SandboxError, match="reads no more"):
        await send_for_ever(process)


async def test_a_send_of_any_size_arrives_whole(sandbox: AgentSandbox):
    process = await sandbox.spawn(["sh", "-c", "head -c 3000000 | sha256sum"])
    await process.send(bytes(3_000_000))
    assert await receive_all(process) == hashlib.sha256(bytes(3_000_000)).hexdigest().encode() + b"  -\n"


async def test_commands_beside_it_leave_it_alone(sandbox: AgentSandbox):
    process = await sandbox.spawn(["cat"])
    await sandbox.exec(["sh", "-c", "setsid sleep 4103 & sleep 4103"], timeout_seconds=0.2)
    await process.send(b"still here")
    assert await process.receive() == b"still here"
    assert processes_with("sleep\x004103") == []


async def test_the_end_of_the_sandbox_ends_a_waiting_receive(sandbox: AgentSandbox):
    process = await sandbox.spawn(["sleep", "4104"])
    receiving = asyncio.create_task(process.receive())
    await asyncio.sleep(0)
    await sandbox.destroy()
    with pytest.raises(SandboxLost):
        await receiving
