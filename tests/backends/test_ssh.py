"""What ssh adds to the contract of sandboxes: keys of hosts, connections, what is kept on the far side, lost links."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.base import BackendUnavailable, CapabilityError, CapacityExhausted, Cause, Network, SandboxLost, SandboxSpec, Tier
from core.errors import ConfigError, MissingRuntime
from tests.backends.processes import processes_with
from tests.backends.sshd import Sshd, sessions_of, sshd

pytest.importorskip("asyncssh", reason="the package 'asyncssh' is not installed")

from backends.ssh import SshBackend
from backends.ssh_far import CREATED, OWNER, find
from backends.ssh_remote import SshConfig

SPEC = SandboxSpec()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real sshd of one's own."""
    try:
        with sshd(tmp_path_factory.mktemp("sshd")) as running:
            yield running
    except MissingRuntime as missing:
        pytest.skip(str(missing))


@asynccontextmanager
async def backend_of(config: SshConfig) -> AsyncIterator[SshBackend]:
    backend = SshBackend(config)
    try:
        yield backend
    finally:
        await backend.aclose()


def changed(server: Sshd, **settings: object) -> SshConfig:
    return server.config.model_copy(update=settings)


async def refused_as(config: SshConfig, kind: type[Exception]) -> str:
    async with backend_of(config) as backend:
        with pytest.raises(kind) as refused:
            await backend.create(SPEC)
    return str(refused.value)


async def test_a_host_without_known_hosts_is_refused(server: Sshd, tmp_path: Path):
    assert "does not exist" in await refused_as(changed(server, known_hosts=tmp_path / "nowhere"), ConfigError)


async def test_a_host_whose_key_is_not_known_is_refused_and_not_learned(server: Sshd, tmp_path: Path):
    empty = tmp_path / "known_hosts"
    empty.write_text("")
    assert "its key is not the one in" in await refused_as(changed(server, known_hosts=empty), ConfigError)
    assert empty.read_text() == ""


async def test_a_host_with_another_key_than_the_known_one_is_refused(server: Sshd, tmp_path: Path):
    other = tmp_path / "known_hosts"
    other.write_text(f"[127.0.0.1]:{server.port} {(server.folder / 'user_key.pub').read_text()}")
    assert "ssh-keyscan" in await refused_as(changed(server, known_hosts=other), ConfigError)


async def test_a_login_that_is_denied_names_host_and_user(server: Sshd, tmp_path: Path):
    import asyncssh

    stranger = tmp_path / "key"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(stranger))
    told = await refused_as(changed(server, client_keys=(stranger,)), ConfigError)
    assert f"127.0.0.1:{server.port}: no login as {server.config.user}" in told


async def test_a_missing_key_file_is_named(server: Sshd):
    assert "/nowhere/key" in await refused_as(changed(server, client_keys=(Path("/nowhere/key"),)), ConfigError)


async def test_a_host_where_nobody_listens_may_be_tried_again(server: Sshd):
    async with backend_of(changed(server, port=1)) as backend:
        with pytest.raises(BackendUnavailable) as refused:
            await backend.create(SPEC)
    assert refused.value.retryable


async def test_without_a_host_it_says_which_setting_to_make():
    with pytest.raises(ConfigError, match=r"backend\.host"):
        await SshBackend().probe()


async def test_what_it_cannot_do_is_refused_before_anything_is_made(server: Sshd):
    async with backend_of(server.config) as backend:
        with pytest.raises(CapabilityError, match="no sandbox a network"):
            await backend.create(SandboxSpec(network=Network.OPEN))
        with pytest.raises(CapabilityError, match="runs no images"):
            await backend.create(SandboxSpec(image="debian"))
        with pytest.raises(ConfigError, match=r"/nowhere: does not exist on 127\.0\.0\.1"):
            await backend.create(SandboxSpec(readonly={"/nowhere": "/data"}))


async def test_a_path_of_that_machine_is_shown(server: Sshd, tmp_path: Path):
    tmp_path.chmod(0o755)
    (tmp_path / "a").write_text("shown")
    (tmp_path / "a").chmod(0o644)
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    async with backend_of(server.config) as backend:
        sandbox = await backend.create(SandboxSpec(readonly={str(tmp_path): "/data"}))
        assert await sandbox.read("/data/a") == b"shown"


async def test_the_agent_is_sent_once_however_many_backends_come(server: Sshd):
    async with backend_of(server.config) as backend:
        await backend.probe()
    kept = {file.name: file.stat().st_mtime_ns for file in (server.folder / "kept").iterdir()}
    async with backend_of(server.config) as backend:
        await backend.probe()
    assert kept
    assert {file.name: file.stat().st_mtime_ns for file in (server.folder / "kept").iterdir()} == kept


async def test_many_sandboxes_share_a_host_and_a_few_a_connection(server: Sshd):
    async with backend_of(changed(server, sessions_per_connection=2, max_connections=2)) as backend:
        sandboxes = await asyncio.gather(*(backend.create(SPEC) for _ in range(4)))
        answers = await asyncio.gather(*(one.exec(["hostname"], timeout_seconds=60) for one in sandboxes))
        assert [answer.stdout for answer in answers] == [b"sandbox\n"] * 4
        with pytest.raises(CapacityExhausted, match="all 4 slots"):
            await backend.create(SPEC)
        await sandboxes[0].destroy()
        assert await (await backend.create(SPEC)).alive()


async def test_an_sshd_that_allows_fewer_sessions_gets_more_connections(tmp_path: Path):
    try:
        with sshd(tmp_path, "MaxSessions 1") as narrow:
            async with backend_of(narrow.config) as backend:
                sandboxes = await asyncio.gather(*(backend.create(SPEC) for _ in range(3)))
                assert [await one.alive() for one in sandboxes] == [True] * 3
    except MissingRuntime as missing:
        pytest.skip(str(missing))


async def test_what_a_login_shell_prints_is_no_reply(server: Sshd):
    noisy = server.folder / "noisy"
    noisy.write_text('#!/bin/sh\necho welcome; echo more >&2\nexec python3 "$@"\n')
    noisy.chmod(0o755)
    async with backend_of(changed(server, python=str(noisy))) as backend:
        sandbox = await backend.create(SPEC)
        assert (await sandbox.exec(["echo", "hello"], timeout_seconds=60)).stdout == b"hello\n"


async def test_a_missing_interpreter_there_is_named(server: Sshd):
    assert "no-python" in await refused_as(changed(server, python="/nowhere/no-python"), MissingRuntime)


async def test_a_link_that_is_cut_says_that_the_command_may_have_run_and_leaves_nothing(server: Sshd):
    mark = f"4321{os.getpid()}"
    async with backend_of(server.config) as backend:
        sandbox = await backend.create(SPEC)
        running = asyncio.create_task(sandbox.exec(["sleep", mark], timeout_seconds=60))
        await until(lambda: bool(processes_with(mark)))
        server.cut()
        with pytest.raises(SandboxLost) as lost:
            await running
        assert (lost.value.maybe_executed, lost.value.cause, lost.value.retryable) == (True, Cause.LINK, True)
        await until(lambda: not processes_with(mark))
        assert not await sandbox.alive()
        assert await (await backend.create(SPEC)).alive()  # over a new connection


async def test_a_silent_host_is_lost_after_its_keepalives(server: Sshd):
    async with backend_of(changed(server, keepalive_seconds=0.3)) as backend:
        sandbox = await backend.create(SPEC)
        silent = sessions_of(server.process.pid)
        running = asyncio.create_task(sandbox.exec(["sleep", "4000"], timeout_seconds=4000))
        for pid in silent:
            os.kill(pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(60):
                with pytest.raises(SandboxLost):
                    await running
        finally:
            for pid in silent:
                os.kill(pid, signal.SIGCONT)


async def test_a_command_that_poses_as_a_sandbox_hides_none():
    posing = {OWNER: "somebody", CREATED: "never"}
    command = await asyncio.create_subprocess_exec("sleep", "4000", env={"PATH": os.environ["PATH"], **posing})
    try:
        async with asyncio.timeout(60):  # until it is the program that has this environment
            while str(command.pid) not in [pid for pid, *_ in find({})["found"]]:
                await asyncio.sleep(0.01)
    finally:
        command.kill()
        await command.wait()


async def test_what_a_killed_process_left_there_is_reaped_by_its_label(server: Sshd):
    program = (
        "import asyncio, sys\nfrom backends.base import SandboxSpec\nfrom backends.ssh import SshBackend, SshConfig\n"
        "async def main():\n"
        "    sandbox = await SshBackend(SshConfig.model_validate_json(sys.argv[1])).create(SandboxSpec())\n"
        "    print(flush=True)\n    await sandbox.exec(['sleep', sys.argv[2]], timeout_seconds=4000)\n"
        "asyncio.run(main())\n"
    )
    mark = f"4322{os.getpid()}"
    maker = subprocess.Popen(
        [sys.executable, "-c", program, server.config.model_dump_json(), mark], stdout=subprocess.PIPE, cwd=Path.cwd()
    )
    assert maker.stdout is not None
    await asyncio.to_thread(maker.stdout.readline)
    await until(lambda: bool(processes_with(mark)))
    async with backend_of(server.config) as backend:
        assert await backend.reap() == ()  # its maker lives
        silent = sessions_of(server.process.pid)
        for pid in silent:
            os.kill(pid, signal.SIGSTOP)  # the far side does not hear of its maker's end
        maker.kill()
        maker.communicate()
        reaped = await backend_reaps(server)
        for pid in silent:
            os.kill(pid, signal.SIGCONT)
    assert len(reaped) == 1
    await until(lambda: not processes_with(mark))


async def backend_reaps(server: Sshd) -> tuple[str, ...]:
    async with backend_of(server.config) as another:
        return await another.reap()


async def test_without_bubblewrap_there_it_wants_to_be_told(server: Sshd, tmp_path: Path):
    python = without_bubblewrap(tmp_path)
    assert "apt-get install bubblewrap there" in await refused_as(changed(server, python=python), MissingRuntime)


async def test_without_walls_the_contract_holds_and_the_folder_is_removed(server: Sshd, tmp_path: Path):
    config = changed(server, python=without_bubblewrap(tmp_path), allow_unsafe=True)
    async with backend_of(config) as backend:
        assert (await backend.probe()).tier is Tier.UNSAFE
        sandbox = await backend.create(SPEC)
        await sandbox.write("a", b"text")
        result = await sandbox.exec(["bash", "-c", "cat a; pwd"], timeout_seconds=60)
        text, _, folder = result.stdout.decode().strip().partition("/tmp/")
        assert (text, Path("/tmp", folder).is_dir()) == ("text", True)
        await sandbox.destroy()
        await until(lambda: not Path("/tmp", folder).parent.exists())


def without_bubblewrap(folder: Path) -> str:
    """An interpreter that finds no bwrap: a script that looks for programs in an empty folder."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nPATH={folder}/empty exec {python} "$@"\n')
    script.chmod(0o755)
    return str(script)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something of the far side."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)
