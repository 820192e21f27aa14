"""What holds without namespaces, behind Landlock and seccomp alone."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.agent_sandbox import AgentSandbox
from backends.base import SandboxSpec, Tier
from backends.local import LocalBackend
from backends.seccomp import ALLOW, MACHINES, REFUSE, local_sockets_only
from core.errors import ConfigError, MissingRuntime
from tests.backends.test_bubblewrap import run_filter


@pytest.fixture
async def backend() -> AsyncIterator[LocalBackend]:
    """The backend `local` where bubblewrap is not installed."""
    backend = LocalBackend("no-such-bubblewrap")
    try:
        assert (await backend.probe()).tier is Tier.LANDLOCK
    except MissingRuntime as missing:
        pytest.skip(str(missing))
    yield backend
    await backend.aclose()


@pytest.fixture
async def sandbox(backend: LocalBackend) -> AgentSandbox:
    return await backend.create(SandboxSpec())


async def test_a_file_that_everybody_may_read_cannot_be_read(sandbox: AgentSandbox, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    found = await sandbox.exec(["cat", str(secret)], timeout_seconds=30)
    assert (found.exit_code, found.stdout) == (1, b"")


@pytest.mark.parametrize("path", ["/tmp/natgym-test-written", "/dev/shm/natgym-test-written", "/var/tmp/natgym-test-written"])
async def test_directories_that_everybody_may_write_cannot_be_written(sandbox: AgentSandbox, path: str):
    assert (await sandbox.exec(["sh", "-c", f"echo x >{path}"], timeout_seconds=30)).exit_code != 0
    assert not Path(path).exists()


async def test_one_sandbox_cannot_reach_another(backend: LocalBackend, sandbox: AgentSandbox):
    other = await backend.create(SandboxSpec())
    await other.write("mine", b"1")
    place = (await other.exec(["pwd"], timeout_seconds=30)).stdout.decode().strip()
    found = await sandbox.exec(["sh", "-c", f"ls {place}; cat {place}/mine; echo x >{place}/mine"], timeout_seconds=30)
    assert found.stdout == b""
    assert await other.read("mine") == b"1"


async def test_a_process_outside_of_the_command_cannot_be_signalled(sandbox: AgentSandbox):
    bystander = subprocess.Popen(["sleep", "4300"], user=None if os.geteuid() else 60999)
    try:
        found = await sandbox.exec(["sh", "-c", f"kill -9 {bystander.pid}"], timeout_seconds=30)
        assert b"Operation not permitted" in found.stderr
        assert bystander.poll() is None
        assert await sandbox.alive()
    finally:
        bystander.kill()
        bystander.wait()


async def test_two_commands_of_one_sandbox_are_strangers(sandbox: AgentSandbox):
    program = await sandbox.spawn(["sh", "-c", "echo $$; sleep 4301"])
    pid = int(await program.receive())
    found = await sandbox.exec(["sh", "-c", f"kill -9 {pid}"], timeout_seconds=30)
    assert b"Operation not permitted" in found.stderr


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET"])
async def test_there_is_no_socket_but_a_local_one(sandbox: AgentSandbox, family: str):
    attempt = f"try: socket.socket(socket.{family}, socket.SOCK_DGRAM)\nexcept OSError: print('no')"
    program = f"import socket\nsocket.socketpair()\n{attempt}"
    found = await sandbox.exec(["python3", "-I", "-S", "-c", program], timeout_seconds=30)
    assert found.stdout == b"no\n"


async def test_a_path_of_the_spec_is_shown_in_its_place_or_refused(backend: LocalBackend, tmp_path: Path):
    directory = Path("/usr/share")
    sandbox = await backend.create(SandboxSpec(readonly={str(directory): str(directory)}))
    assert (await sandbox.exec(["ls", str(directory)], timeout_seconds=30)).exit_code == 0
    with pytest.raises(ConfigError, match="keep its place"):
        await backend.create(SandboxSpec(readonly={str(directory): "/elsewhere"}))


async def test_commands_at_once_and_a_timeout_leave_nothing(sandbox: AgentSandbox):
    results = await asyncio.gather(*(sandbox.exec(["echo", str(n)], timeout_seconds=60) for n in range(8)))
    assert [result.stdout for result in results] == [f"{n}\n".encode() for n in range(8)]


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_of_sockets_refuses_every_other_family(machine: str):
    program, table = local_sockets_only(machine), MACHINES[machine]
    assert program is not None
    families = {family for family in range(46) if run_filter(program, table.audit, table.socket, family) == ALLOW}
    assert families == {1}
    assert run_filter(program, table.audit, table.socket + 1, 2) == ALLOW
    assert run_filter(program, table.audit, table.socket, 2) == REFUSE
