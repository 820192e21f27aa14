"""What is docker's own, on a real daemon: containers and their labels, images, the end of a container from elsewhere."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from aiodocker import Docker

from backends.base import BackendUnavailable, Cause, ImageError, Limit, SandboxLost, SandboxSpec, Tier
from backends.docker import DockerBackend
from backends.images.host_root import system_binds
from backends.owner import LABEL, TOKEN_LABEL, this_owner
from backends.staging import step_down
from core.errors import MissingRuntime
from tests.backends.dockerd import OwnDaemon, docker
from tests.backends.processes import gone


@pytest.fixture
async def backend() -> AsyncIterator[DockerBackend]:
    """The backend, where this machine runs docker."""
    try:
        async with docker() as backend:
            await backend.probe()
            yield backend
    except MissingRuntime as missing:
        pytest.skip(f"docker: {missing}")


@pytest.fixture
async def daemon(backend: DockerBackend) -> AsyncIterator[Docker]:
    """A client of that daemon of the tests' own."""
    async with Docker() as client:
        yield client


async def ours(daemon: Docker) -> dict[str, str]:
    """The containers that this process made: id -> token. Those of earlier tests may go meanwhile."""
    found = await daemon.containers.list(all=True, filters=json.dumps({"label": [f"{LABEL}={this_owner()}"]}))
    return {container["Id"]: container["Labels"][TOKEN_LABEL] for container in found}


async def test_probe_names_tier_and_limits(backend: DockerBackend):
    found = await backend.probe()
    assert found.tier in (Tier.CONTAINED, Tier.NAMESPACES, Tier.VM)
    assert "docker" in found.detail


async def test_a_container_says_whose_it_is_and_goes_with_its_sandbox(backend: DockerBackend, daemon: Docker):
    before = await ours(daemon)
    sandbox = await backend.create(SandboxSpec(), token="episode-7")
    assert [token for made, token in (await ours(daemon)).items() if made not in before] == ["episode-7"]
    await sandbox.destroy()
    assert (await ours(daemon)).keys() <= before.keys()


async def test_a_cancelled_create_leaves_no_container(backend: DockerBackend, daemon: Docker):
    before = await ours(daemon)
    for delay in (0.0, 0.1, 0.3):
        creating = asyncio.create_task(backend.create(SandboxSpec()))
        await asyncio.sleep(delay)
        creating.cancel()
        await asyncio.gather(creating, return_exceptions=True)
    await backend.aclose()
    assert (await ours(daemon)).keys() <= before.keys()


async def test_a_container_removed_by_somebody_else_is_a_lost_sandbox(backend: DockerBackend, daemon: Docker):
    sandbox = await backend.create(SandboxSpec())
    running = asyncio.create_task(sandbox.exec(["sleep", "60"], timeout_seconds=90))
    assert await sandbox.alive()
    assert await backend.reap(owner=this_owner())
    with pytest.raises(SandboxLost) as lost:
        await running
    assert lost.value.maybe_executed
    assert lost.value.cause in (Cause.UNKNOWN, Cause.LINK)
    await sandbox.destroy()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("dockerd") is None, reason="only root can start a dockerd")
async def test_a_daemon_that_dies_loses_its_sandboxes_and_serves_again_when_it_is_back():
    mark = f"4203{os.getpid()}"
    with TemporaryDirectory(prefix="natgym-dockerd-", ignore_cleanup_errors=True) as directory:
        daemon = OwnDaemon(Path(directory))
        backend = DockerBackend(url=daemon.address)
        try:
            daemon.start()
            sandbox = await backend.create(SandboxSpec())
            running = asyncio.create_task(sandbox.exec(["sleep", mark], timeout_seconds=4000))
            assert await sandbox.alive()
            daemon.kill()
            with pytest.raises(SandboxLost) as lost:
                await running
            assert lost.value.maybe_executed
            with pytest.raises(BackendUnavailable):
                await backend.create(SandboxSpec())
            daemon.start()  # what runs below it survives a kill, and is ended by the daemon's next start
            assert await gone(mark)
            fresh = await backend.create(SandboxSpec())
            assert (await fresh.exec(["echo", "back"], timeout_seconds=60)).stdout == b"back\n"
            await sandbox.destroy()
            await backend.reap(owner=this_owner())
            async with Docker(daemon.address) as client:
                assert await client.containers.list(all=True) == []
        except MissingRuntime as missing:
            pytest.skip(f"docker: {missing}")
        finally:
            await backend.aclose()
            daemon.end()


async def test_reap_spares_the_living_and_the_young(backend: DockerBackend):
    sandbox = await backend.create(SandboxSpec())
    assert await backend.reap() == ()
    assert await backend.reap(owner=this_owner(), older_than_seconds=3600) == ()
    assert await sandbox.alive()


LEFT_BEHIND = """
import asyncio, json, sys
from aiodocker import Docker
from backends.docker_container import container_config, labels
from backends.base import SandboxSpec
from backends.owner import this_owner
async def main():
    async with Docker() as daemon:
        config = container_config(SandboxSpec(), sys.argv[1], ["sleep"], {}, labels(this_owner(), 0, ""))
        print((await daemon.containers.create(config, name=sys.argv[2]))["id"])
asyncio.run(main())
"""


async def test_reap_removes_what_a_process_that_is_gone_left_behind(backend: DockerBackend, daemon: Docker):
    await (await backend.create(SandboxSpec())).destroy()  # so that there is an image
    (image,) = [tag for image in await daemon.images.list() for tag in image["RepoTags"] if tag.startswith("natgym-host:")][:1]
    name = f"natgym-test-{os.urandom(4).hex()}"
    maker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LEFT_BEHIND, image, name),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await maker.wait() == 0
    assert await backend.reap() == (name,)
    assert await backend.reap() == ()


async def test_an_image_is_used_as_it_is(backend: DockerBackend, daemon: Docker):
    await (await backend.create(SandboxSpec())).destroy()
    (image,) = [tag for image in await daemon.images.list() for tag in image["RepoTags"] if tag.startswith("natgym-host:")][:1]
    sandbox = await backend.create(SandboxSpec(image=image, readonly=system_binds()))
    assert (await sandbox.exec(["python3", "-c", "print(6 * 7)"], timeout_seconds=20)).stdout == b"42\n"
    with pytest.raises(ImageError, match=f"image '{image}' cannot run .* expected one with python3"):
        await backend.create(SandboxSpec(image=image))


async def test_a_missing_image_is_named(backend: DockerBackend):
    with pytest.raises(ImageError, match="docker has no image 'natgym-no-such:1'; pull it, or build it"):
        await backend.create(SandboxSpec(image="natgym-no-such:1"))


async def test_a_command_may_make_namespaces_only_where_the_spec_says_so(backend: DockerBackend):
    codes = []
    for nested in (False, True):
        sandbox = await backend.create(SandboxSpec(nested_namespaces=nested))
        command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "true"]
        codes.append((await sandbox.exec(command, timeout_seconds=20)).exit_code)
    assert codes == [1, 0]


CALL = """
import glob, os, socket, stat, sys
paths = ("/run/natgym-door", *glob.glob("/run/*"), *glob.glob("/tmp/*"))
for path in [path for path in paths if stat.S_ISSOCK(os.stat(path).st_mode)]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        sys.exit("somebody listens")
    except OSError as error:
        print(error.strerror)
"""


async def test_the_door_of_an_agent_is_closed_behind_it(backend: DockerBackend, monkeypatch: pytest.MonkeyPatch):
    with TemporaryDirectory() as place:
        monkeypatch.setattr("tempfile.tempdir", place)
        sandbox = await backend.create(SandboxSpec())
        assert list(Path(place).iterdir()) == []
    found = await sandbox.exec(["python3", "-c", CALL], timeout_seconds=60)
    assert (set(found.stdout.splitlines()), found.exit_code) == ({b"Connection refused"}, 0)


async def test_where_no_door_can_be_made_the_streams_are_used(backend: DockerBackend, monkeypatch: pytest.MonkeyPatch):
    with TemporaryDirectory(suffix="x" * 100) as too_long:
        monkeypatch.setattr("tempfile.tempdir", too_long)
        sandbox = await backend.create(SandboxSpec())
        assert list(Path(too_long).iterdir()) == []
    result = await sandbox.exec(["cat"], stdin=bytes(3 << 20), max_output=4 << 20, timeout_seconds=60)
    assert result.stdout == bytes(3 << 20)
    assert b"door" not in (await sandbox.exec(["ls", "/run"], timeout_seconds=60)).stdout


EATERS = """
import os, time
children = []
for _ in range(4):
    if (child := os.fork()) == 0:
        kept = b"x" * (60 << 20)
        time.sleep(2)
        os._exit(0)
    children.append(child)
print(sum(os.waitpid(child, 0)[1] == 9 for child in children))
"""


THREADS = """
import threading, time
for _ in range(150):
    threading.Thread(target=time.sleep, args=(4000,), daemon=True).start()
print(flush=True)
time.sleep(4000)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
async def test_the_processes_of_a_user_of_this_machine_do_not_count(backend: DockerBackend):
    command = [*step_down(1000), "/usr/bin/env", "python3", "-c", THREADS]
    crowd = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd="/")
    try:
        assert crowd.stdout is not None
        assert await crowd.stdout.readline() == b"\n"
        sandbox = await backend.create(SandboxSpec(processes=64))
        found = await sandbox.exec(["bash", "-c", "(sleep 0); echo $(echo forked)"], timeout_seconds=60)
        assert (found.stdout, found.stderr) == (b"forked\n", b"")
    finally:
        crowd.kill()
        await crowd.wait()


async def test_memory_is_bounded_for_all_processes_together(backend: DockerBackend):
    if Limit.MEMORY not in (await backend.probe()).limits:
        pytest.skip("docker: this daemon does not bound memory")
    sandbox = await backend.create(SandboxSpec(memory_mib=64, disk_mib=1))
    found = await sandbox.exec(["python3", "-c", EATERS], timeout_seconds=60)
    assert int(found.stdout) >= 2  # two of 60 MiB and their interpreters fit
    assert await sandbox.alive()
