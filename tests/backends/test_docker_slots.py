"""Many sandboxes in one container, on a real daemon: what one slot can do to another, and what is left of one."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiodocker import Docker

from backends.agent_sandbox import AgentSandbox
from backends.base import CapabilityError, Limit, PathProblem, SandboxLost, SandboxPathError, SandboxSpec, Tier
from backends.docker import DockerBackend, DockerConfig
from backends.owner import LABEL, this_owner
from core.errors import MissingRuntime
from tests.backends.conformance.limits import FORK
from tests.backends.dockerd import shared_daemon

SPEC = SandboxSpec(processes=64, disk_mib=16)


@pytest.fixture
async def backend() -> AsyncIterator[DockerBackend]:
    """Three sandboxes in a container, where this machine runs docker."""
    try:
        backend = DockerBackend(DockerConfig(slots=3), url=shared_daemon())
    except MissingRuntime as missing:
        pytest.skip(f"docker: {missing}")
    yield backend
    await backend.aclose()


async def containers() -> set[str]:
    """The ids of the containers that this process made. Those of earlier tests may go meanwhile."""
    async with Docker(shared_daemon()) as daemon:
        found = await daemon.containers.list(all=True, filters=json.dumps({"label": [f"{LABEL}={this_owner()}"]}))
    return {container["Id"] for container in found}


async def shell(sandbox: AgentSandbox, command: str) -> str:
    """What a line of bash prints on either stream."""
    result = await sandbox.exec(["bash", "-c", f"exec 2>&1; {command}"], timeout_seconds=60)
    return result.stdout.decode()


async def test_its_promises_are_those_of_a_slot(backend: DockerBackend):
    found = await backend.probe()
    assert (found.tier, found.private_pids, found.no_network, found.hides_host) == (Tier.NAMESPACES, False, True, True)
    assert Limit.MEMORY not in found.limits
    assert "3 sandboxes in a container" in found.detail


async def test_containers_are_filled_and_end_with_their_last_sandbox(backend: DockerBackend):
    before = await containers()
    sandboxes = await asyncio.gather(*(backend.create(SPEC) for _ in range(4)))
    assert len(await containers() - before) == 2
    assert len({await shell(sandbox, "id -u") for sandbox in sandboxes}) == 4
    await backend.create(SPEC.model_copy(update={"disk_mib": 17}))
    assert len(await containers() - before) == 3  # of another spec
    for sandbox in sandboxes:
        await sandbox.destroy()
    assert len(await containers() - before) == 1
    await backend.aclose()
    assert await containers() <= before


async def test_one_slot_can_neither_read_nor_write_another(backend: DockerBackend):
    one, other = await backend.create(SPEC), await backend.create(SPEC)
    await one.write("secret", b"of one")
    place = (await shell(one, "pwd; chmod 777 secret")).strip()
    found = await shell(other, f"cat {place}/secret; ls {place}; echo x >{place}/secret; echo x >/slots/x; echo x >/tmp/x")
    assert found.count("Permission denied") + found.count("Read-only file system") == len(found.splitlines()) == 5
    with pytest.raises(SandboxPathError) as refused:
        await other.read(f"{place}/secret")
    assert refused.value.problem is PathProblem.ESCAPES
    await shell(other, f"ln -s {place} to-one")
    with pytest.raises(SandboxPathError):
        await other.read("to-one/secret")
    assert await one.read("secret") == b"of one"


async def test_one_slot_can_neither_signal_nor_trace_another_nor_an_agent(backend: DockerBackend):
    one, other = await backend.create(SPEC), await backend.create(SPEC)
    program = await one.spawn(["sh", "-c", "echo $$; sleep 4000"])
    pid = (await program.receive()).decode().strip()
    agents = (await shell(other, "ps -U 0 -o pid= | xargs")).split()
    assert len(agents) > 3
    tried = await shell(
        other, f"for p in {pid} {' '.join(agents)}; do for s in KILL STOP 0; do kill -$s $p && echo sent; done; done"
    )
    assert "sent" not in tried
    assert "Permission denied" in await shell(other, f"cat /proc/{pid}/environ")
    for agent in agents:
        assert "ermi" in await shell(other, f"cat /proc/{agent}/environ; cat /proc/{agent}/mem; ls /proc/{agent}/fd")
    await other.exec(["bash", "-c", "kill -9 -1"], timeout_seconds=60)
    assert (await one.alive(), await other.alive()) == (True, True)
    assert (await shell(one, f"kill -0 {pid} && echo there"), await shell(other, "echo there")) == ("there\n", "there\n")


async def test_the_processes_of_each_slot_are_counted_apart(backend: DockerBackend):
    one, other = await backend.create(SPEC), await backend.create(SPEC)
    forking = [sandbox.exec(["python3", "-I", "-S", "-c", FORK], timeout_seconds=60) for sandbox in (one, other)]
    for made in await asyncio.gather(*forking):
        assert 40 < int(made.stdout) < 100
    await other.exec(["bash", "-c", "bomb() { bomb | bomb & }; bomb; sleep 60"], timeout_seconds=1)
    assert await shell(one, "echo here") == "here\n"


async def test_a_disk_is_full_for_one_slot_only(backend: DockerBackend):
    one, other = await backend.create(SPEC), await backend.create(SPEC)
    for directory in (".", "$HOME"):
        assert "No space left" in await shell(one, f"for i in 1 2; do head -c 15000000 /dev/zero >{directory}/$i; done")
    await other.write("large", bytes(15_000_000))


async def test_nothing_of_one_holder_is_there_for_the_next(backend: DockerBackend):
    stays, leaves = await backend.create(SPEC), await backend.create(SPEC)
    place = (await shell(leaves, "pwd")).strip()
    await leaves.spawn(["bash", "-c", "(setsid bash -c 'trap \"\" TERM; sleep 4000' &); sleep 4000"])
    await shell(leaves, "mkdir -m 0 closed; echo x >$HOME/left; echo x >left; chmod 777 . $HOME; ln -s / all")
    await leaves.destroy()
    assert await shell(stays, "ps -eo args | grep '[s]leep 4000'; echo") == "\n"
    following = await backend.create(SPEC)
    assert (await shell(following, "pwd; ls -A . $HOME")).split() == [place, ".:", f"{place.removesuffix('workspace')}tmp:"]
    assert "Permission denied" in await shell(stays, f"ls {place}")


async def test_no_memory_is_shared_between_slots(backend: DockerBackend):
    one = await backend.create(SPEC)
    program = (
        "import ctypes; c = ctypes.CDLL(None); print(c.shmget(1, 4096, 0o1666), c.semget(1, 1, 0o1666), c.msgget(1, 0o1666))"
    )
    assert await shell(one, f"python3 -c '{program}'") == "-1 -1 -1\n"
    assert "cannot" in await shell(one, "touch /dev/shm/x")


async def test_a_container_that_dies_takes_its_slots_along_and_is_not_used_again(backend: DockerBackend):
    one, other = await backend.create(SPEC), await backend.create(SPEC)
    running = asyncio.create_task(one.exec(["sleep", "4000"], timeout_seconds=4000))
    assert await other.alive()
    assert await backend.reap(owner=this_owner())
    with pytest.raises(SandboxLost):
        await running
    await one.destroy()
    await other.destroy()
    fresh = await backend.create(SPEC)
    assert await shell(fresh, "echo here") == "here\n"


async def test_a_creation_that_is_cancelled_leaves_no_agent(backend: DockerBackend):
    stays = await backend.create(SPEC)
    before = await shell(stays, "ps -e -o pid= | wc -l")
    for turns in (1, 5, 40):
        creating = asyncio.create_task(backend.create(SPEC))
        for _ in range(turns):
            await asyncio.sleep(0)
        creating.cancel()
        (made,) = await asyncio.gather(creating, return_exceptions=True)
        if isinstance(made, AgentSandbox):
            await made.destroy()
    async with asyncio.timeout(60):
        while await shell(stays, "ps -e -o pid= | wc -l") != before:
            await asyncio.sleep(0.05)


async def test_namespaces_in_a_slot_are_refused(backend: DockerBackend):
    with pytest.raises(CapabilityError, match="slots = 1"):
        await backend.create(SandboxSpec(nested_namespaces=True))
