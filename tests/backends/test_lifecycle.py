"""How sandboxes begin and end, and that nothing is left of them."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from backends.agent_sandbox import AgentSandbox
from backends.base import SandboxError, SandboxLost, SandboxSpec, Tier
from backends.host_process import HostProcess
from backends.local import LocalBackend
from backends.unsafe_local import UnsafeLocalBackend
from core.errors import ConfigError, MissingRuntime
from tests.backends.conftest import AnyBackend
from tests.backends.processes import children, gone, processes_with


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_destroy_leaves_no_process(sandbox: AgentSandbox):
    await sandbox.spawn(["sh", "-c", "setsid sleep 4200 & sleep 4200"])
    await sandbox.destroy()
    assert processes_with("sleep\x004200") == []
    assert children() == []


async def test_destroy_may_be_called_twice_and_at_once(sandbox: AgentSandbox):
    await asyncio.gather(sandbox.destroy(), sandbox.destroy())
    await sandbox.destroy()
    assert not await sandbox.alive()


async def test_a_destroyed_sandbox_says_that_nothing_ran(sandbox: AgentSandbox):
    await sandbox.destroy()
    with pytest.raises(SandboxLost) as lost:
        await sandbox.exec(["true"], timeout_seconds=5)
    assert not lost.value.maybe_executed


async def test_destroy_during_a_command_says_that_it_may_have_run(sandbox: AgentSandbox):
    running = asyncio.create_task(sandbox.exec(["sleep", "4201"], timeout_seconds=60))
    await asyncio.sleep(0)
    await sandbox.destroy()
    with pytest.raises(SandboxLost) as lost:
        await running
    assert lost.value.maybe_executed
    assert processes_with("sleep\x004201") == []


async def test_a_cancelled_destroy_still_destroys(sandbox: AgentSandbox):
    destroying = asyncio.create_task(sandbox.destroy())
    await asyncio.sleep(0)
    destroying.cancel()
    await asyncio.gather(destroying, return_exceptions=True)
    await sandbox.destroy()
    assert children() == []


async def test_a_cancelled_create_leaves_nothing(backend: AnyBackend):
    for delay in (0.0, 0.005, 0.02):
        creating = asyncio.create_task(backend.create(SandboxSpec()))
        await asyncio.sleep(delay)
        creating.cancel()
        await asyncio.gather(creating, return_exceptions=True)
    await backend.aclose()
    assert children() == []


async def test_fifty_sandboxes_leave_no_descriptor_and_no_process(backend: AnyBackend):
    await (await backend.create(SandboxSpec())).destroy()
    before = open_fds()
    for _ in range(50):
        sandbox = await backend.create(SandboxSpec())
        await sandbox.exec(["true"], timeout_seconds=20)
        await sandbox.destroy()
    assert open_fds() == before
    assert children() == []


async def test_the_end_of_the_backend_destroys_its_sandboxes(backend: AnyBackend):
    sandboxes = [await backend.create(SandboxSpec()) for _ in range(3)]
    await backend.aclose()
    assert [await sandbox.alive() for sandbox in sandboxes] == [False, False, False]
    assert children() == []


async def test_a_sandbox_whose_host_process_is_killed_is_lost(sandbox: AgentSandbox):
    running = asyncio.create_task(sandbox.exec(["sleep", "4202"], timeout_seconds=60))
    await sandbox.alive()
    assert isinstance(sandbox.host, HostProcess)
    os.kill(sandbox.host.pid, signal.SIGKILL)
    with pytest.raises(SandboxLost):
        await running
    assert await gone("sleep\x004202")


OWNER = """
import asyncio, sys
from backends.base import BACKENDS, SandboxSpec
async def main():
    sandbox = await BACKENDS.load(sys.argv[1])().create(SandboxSpec())
    await sandbox.spawn(["sh", "-c", "setsid sleep 4203 & sleep 4203"])
    await sandbox.exec(["sleep", "0.1"], timeout_seconds=9)
    print("up", flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
"""


async def test_sandboxes_die_with_their_owner(backend: AnyBackend, tmp_path: Path):
    environ = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, backend.name, stdout=asyncio.subprocess.PIPE, env=environ
    )
    assert owner.stdout is not None
    assert await owner.stdout.readline() == b"up\n"
    assert processes_with("sleep\x004203")
    owner.kill()
    await owner.wait()
    assert await gone("sleep\x004203")


async def test_the_private_directory_of_unsafe_local_goes_with_its_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    backend = UnsafeLocalBackend()
    sandbox = await backend.create(SandboxSpec())
    await sandbox.write("a", b"1")
    assert list(tmp_path.glob("*/workspace/a"))
    await backend.aclose()
    assert list(tmp_path.iterdir()) == []


async def test_probe_names_the_tier(local: LocalBackend):
    walled, bare = [(await backend.probe()).tier for backend in (local, UnsafeLocalBackend())]
    assert (walled in (Tier.CONTAINED, Tier.NAMESPACES), bare) == (True, Tier.UNSAFE)


async def test_a_path_that_is_not_there_is_named(backend: AnyBackend):
    with pytest.raises(ConfigError, match="/no/such/path"):
        await backend.create(SandboxSpec(readonly={"/no/such/path": "/no/such/path"}))


@pytest.mark.parametrize("inside", ["relative", "/", "/proc/x", "/a/../proc", "/dev"])
async def test_a_path_that_cannot_be_shown_is_refused(local: LocalBackend, tmp_path: Path, inside: str):
    with pytest.raises(ConfigError, match="expected an absolute path"):
        await local.create(SandboxSpec(readonly={str(tmp_path): inside}))


async def test_a_missing_bubblewrap_says_what_to_install():
    with pytest.raises(MissingRuntime, match=r"apt-get install bubblewrap.*unsafe-local"):
        await LocalBackend("no-such-bubblewrap").create(SandboxSpec(nested_namespaces=True))


def complaining_bubblewrap(directory: Path, complaint: str) -> LocalBackend:
    program = directory / "bwrap"
    program.write_text(f'#!/bin/sh\necho "bwrap: {complaint}" >&2\nexit 1\n')
    program.chmod(0o755)
    return LocalBackend(str(program))


@pytest.fixture
def everybody() -> Iterator[Path]:
    """A directory that the unprivileged user can reach when root runs the tests, unlike pytest's own."""
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


async def test_forbidden_namespaces_are_a_missing_runtime(everybody: Path):
    backend = complaining_bubblewrap(everybody, "No permissions to create new namespace")
    with pytest.raises(MissingRuntime, match=r"cannot build its walls: .*(sysctl|--security-opt).*unsafe-local"):
        await backend.create(SandboxSpec(nested_namespaces=True))


async def test_another_complaint_is_a_sandbox_error_that_quotes_it(everybody: Path):
    backend = complaining_bubblewrap(everybody, "the moon is full")
    with pytest.raises(SandboxError, match="the moon is full"):
        await backend.probe()
