"""What the backend asks of a docker daemon, and what it makes of a daemon's refusals."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from backends.base import (
    BackendUnavailable,
    CapabilityError,
    CapacityExhausted,
    ImageError,
    Limit,
    Network,
    ProtocolViolation,
    SandboxError,
    SandboxLost,
    SandboxSpec,
    Tier,
)
from backends.docker import DockerBackend
from core.errors import ConfigError, MissingRuntime, NatgymError
from tests.backends.docker_api import INFO, DockerApi, doors

SPEC = SandboxSpec(image="natgym-nat")


@pytest.fixture
async def api() -> DockerApi:
    """A daemon."""
    return DockerApi()


@pytest.fixture
async def backend(api: DockerApi) -> AsyncIterator[DockerBackend]:
    """The backend on that daemon."""
    with TemporaryDirectory() as place:
        async with api.serving(Path(place, "docker.sock")) as address:
            backend = DockerBackend(url=address)
            yield backend
            await backend.aclose()


async def test_a_container_is_bounded_and_walled(backend: DockerBackend, api: DockerApi):
    await backend.create(SandboxSpec(image="natgym-nat", memory_mib=100, processes=50, cpus=1.5, disk_mib=32))
    (config,) = api.created
    host = config["HostConfig"]
    assert (config["Image"], config["User"], config["Env"], config["Tty"]) == ("natgym-nat", "1000:1000", [], False)
    disks = 2 * 32 + 64  # two, and the shared memory; their files take half as much again
    memory = ((100 + disks) << 20) + (disks << 19)
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"], host["CpuQuota"]) == (memory, memory, 58, 150_000)
    assert (host["NetworkMode"], host["CapDrop"], host["ReadonlyRootfs"], host["Privileged"]) == ("none", ["ALL"], True, False)
    assert (host["SecurityOpt"], host["LogConfig"]["Type"], host["AutoRemove"]) == (["no-new-privileges"], "none", True)
    assert {place: options.split("size=")[1] for place, options in host["Tmpfs"].items()} == {
        "/workspace": "32m,nr_inodes=16384",
        "/tmp": "32m,nr_inodes=16384",
        "/dev/shm": "64m,nr_inodes=32768",
    }


async def test_paths_of_the_host_are_shown_read_only(backend: DockerBackend, api: DockerApi, tmp_path: Path):
    given = tmp_path / "with, comma and : colon"
    given.mkdir()
    await backend.create(SandboxSpec(image="natgym-nat", readonly={str(given): "/opt/given"}))
    mount, _ = api.created[0]["HostConfig"]["Mounts"]  # the other is a door to its agent
    assert (mount["Source"], mount["Target"], mount["ReadOnly"]) == (str(given), "/opt/given", True)


async def test_an_agent_that_finds_no_door_is_spoken_to_over_the_streams(backend: DockerBackend, api: DockerApi):
    sandbox = await backend.create(SPEC)
    (door,) = doors(api.created[0])
    assert not Path(door).parent.exists()
    assert await sandbox.alive()


async def test_a_daemon_that_sees_no_files_is_asked_to_show_none(backend: DockerBackend, api: DockerApi):
    api.sees_files = False
    for _ in range(2):
        assert await (await backend.create(SPEC)).alive()
    assert [mount for config in api.created for mount in config["HostConfig"]["Mounts"]] == []
    with pytest.raises(CapabilityError, match="does not see this machine's files"):
        await backend.create(SandboxSpec(image="natgym-nat", readonly={"/usr": "/opt/usr"}))


async def test_a_network_is_asked_for_only_where_the_spec_does(backend: DockerBackend, api: DockerApi):
    await backend.create(SandboxSpec(image="natgym-nat", network=Network.OPEN))
    assert api.created[0]["HostConfig"]["NetworkMode"] == "bridge"


async def test_one_token_makes_one_container(backend: DockerBackend, api: DockerApi):
    made = await asyncio.gather(*(backend.create(SPEC, token="a") for _ in range(3)))
    assert len(set(map(id, made))) == len(api.created) == 1


async def test_a_container_goes_with_its_sandbox(backend: DockerBackend, api: DockerApi):
    sandbox = await backend.create(SPEC)
    assert await sandbox.alive()
    await sandbox.destroy()
    assert api.containers == {}


async def test_a_create_that_is_cancelled_while_the_daemon_works_leaves_nothing(backend: DockerBackend, api: DockerApi):
    api.before_create.clear()
    creating = asyncio.create_task(backend.create(SPEC))
    await asyncio.sleep(0.1)
    creating.cancel()
    await asyncio.sleep(0.1)
    api.before_create.set()
    await asyncio.gather(creating, return_exceptions=True)
    assert len(api.created) <= 1
    assert api.containers == {}


REFUSALS = {
    "No such image: natgym-nat:latest": ("create", 404, ImageError, "no image 'natgym-nat'; pull it, or build it"),
    'exec: "python3": executable file not found in $PATH': ("start", 400, ImageError, "expected one with python3"),
    "invalid mount config: bind source path does not exist: /a": (
        "create",
        400,
        CapabilityError,
        "name an image",
    ),
    "mkdir /var/lib/docker/overlay2: no space left on device": ("create", 500, CapacityExhausted, "no space left"),
    "the moon is full": ("start", 500, SandboxError, "docker: the moon is full"),
}


@pytest.mark.parametrize("message", REFUSALS)
async def test_a_refusal_is_a_typed_error_and_leaves_nothing(backend: DockerBackend, api: DockerApi, message: str):
    where, status, kind, meaning = REFUSALS[message]
    api.refusals[where] = (status, message)
    with pytest.raises(NatgymError, match=meaning) as refused:
        await backend.create(SPEC)
    assert type(refused.value) is kind
    assert api.containers == {}


async def test_a_daemon_that_was_there_and_is_gone_is_unavailable(api: DockerApi):
    with TemporaryDirectory() as place:
        async with api.serving(Path(place, "docker.sock")) as address:
            backend = DockerBackend(url=address)
            await backend.create(SPEC)
        with pytest.raises(BackendUnavailable, match="docker"):
            await backend.create(SPEC)
        await backend.aclose()


async def test_a_link_that_is_cut_says_that_the_command_may_have_run(backend: DockerBackend, api: DockerApi):
    sandbox = await backend.create(SPEC)
    running = asyncio.create_task(sandbox.exec(["sleep", "60"], timeout_seconds=90))
    assert await sandbox.alive()
    for link in api.agents:
        link.transport.abort()
    with pytest.raises(SandboxLost) as lost:
        await running
    assert lost.value.maybe_executed


async def test_a_container_that_says_nonsense_broke_the_protocol(backend: DockerBackend, api: DockerApi):
    sandbox = await backend.create(SPEC)
    running = asyncio.create_task(sandbox.exec(["sleep", "60"], timeout_seconds=90))
    assert await sandbox.alive()
    api.say(api.agents[-1], b"\xff" * 64)
    with pytest.raises(ProtocolViolation):
        await running


async def test_what_a_container_complains_of_is_no_answer(backend: DockerBackend, api: DockerApi):
    sandbox = await backend.create(SPEC)
    api.say(api.agents[-1], b"a complaint", stream=2)
    assert await sandbox.alive()


@pytest.mark.parametrize(
    ("changed", "tier"),
    [({}, Tier.CONTAINED), ({"PidsLimit": False}, Tier.NAMESPACES), ({"DefaultRuntime": "runsc"}, Tier.VM)],
)
async def test_the_tier_follows_what_the_daemon_enforces(backend: DockerBackend, api: DockerApi, changed: dict, tier: Tier):
    api.info = INFO | changed
    found = await backend.probe()
    assert found.tier is tier
    assert (Limit.PROCESSES in found.limits) == api.info["PidsLimit"]


async def test_no_daemon_says_how_to_get_one():
    with pytest.raises(MissingRuntime, match=r"systemctl start docker.*DOCKER_HOST"):
        await DockerBackend(url="unix:///no/such/docker.sock").probe()


async def test_a_wrong_address_is_named_as_such():
    with pytest.raises(MissingRuntime, match="DOCKER_HOST"):
        await DockerBackend(url="gopher://example").probe()


async def test_a_path_that_is_not_there_is_named(backend: DockerBackend):
    with pytest.raises(ConfigError, match="/no/such/path"):
        await backend.create(SandboxSpec(image="a", readonly={"/no/such/path": "/a"}))
