"""What Modal adds to the contract of sandboxes: its ways to refuse, to end a sandbox and to lose a stream.

The real client speaks to a server of ours that keeps Modal's contract (modal_server.py).
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import pytest

pytest.importorskip("modal", reason="the package 'modal' is not installed")

from grpclib import Status
from modal_proto import api_pb2

from backends.base import (
    BackendUnavailable,
    Blame,
    CapabilityError,
    CapacityExhausted,
    Cause,
    ImageError,
    Network,
    QuotaExceeded,
    RateLimited,
    SandboxLost,
    SandboxSpec,
    Tier,
)
from backends.errors import blame_of
from backends.modal import ModalBackend, ModalConfig
from backends.modal_stream import agent_argv
from core.errors import MissingRuntime
from core.settings import child_environ
from tests.backends.modal_server import Container, Modal, modal_server

SPEC = SandboxSpec()
ENDS = {
    "its lifetime is over": (api_pb2.GenericResult.GENERIC_STATUS_TIMEOUT, Cause.EXPIRED),
    "Modal preempted it": (api_pb2.GenericResult.GENERIC_STATUS_TERMINATED, Cause.EVICTED),
    "a worker broke": (api_pb2.GenericResult.GENERIC_STATUS_INTERNAL_FAILURE, Cause.KILLED),
}
REFUSALS = {
    "Sandbox creation rate limit (5/s) exceeded": (Status.RESOURCE_EXHAUSTED, RateLimited, True),
    "No capacity for this request": (Status.RESOURCE_EXHAUSTED, CapacityExhausted, True),
    "Workspace spend limit reached": (Status.RESOURCE_EXHAUSTED, QuotaExceeded, False),
    "the scheduler is down": (Status.INTERNAL, BackendUnavailable, True),
}


@pytest.fixture
def server() -> Modal:
    """The stand-in for Modal; nothing of an earlier test is left to happen."""
    try:
        running = modal_server()
    except MissingRuntime as missing:
        pytest.skip(str(missing))
    assert (list(running.refusals), running.broken_reads, running.running) == ([], 0, [])
    return running


@pytest.fixture
async def backend(server: Modal) -> AsyncIterator[ModalBackend]:
    """A backend on it that does not wait between creations."""
    backend = ModalBackend(ModalConfig(creates_per_second=100))
    yield backend
    await backend.aclose()
    assert server.running == []


def newest(server: Modal) -> Container:
    return list(server.containers.values())[-1]


async def test_a_container_is_asked_for_with_walls_limits_and_an_end(backend: ModalBackend, server: Modal):
    await backend.create(SandboxSpec(cpus=1.5, memory_mib=768, lifetime_seconds=90))
    asked = newest(server).request.definition
    assert asked.network_access.network_access_type == api_pb2.NetworkAccess.NetworkAccessType.BLOCKED
    assert (asked.resources.milli_cpu, asked.resources.milli_cpu_max) == (1500, 1500)
    assert (asked.resources.memory_mb, asked.resources.memory_mb_max, asked.timeout_secs) == (768, 768, 90)


async def test_a_network_is_open_where_the_spec_says_so(backend: ModalBackend, server: Modal):
    await backend.create(SandboxSpec(network=Network.OPEN))
    asked = newest(server).request.definition.network_access
    assert asked.network_access_type == api_pb2.NetworkAccess.NetworkAccessType.OPEN


async def test_one_command_is_one_call_beside_the_one_stream(backend: ModalBackend, server: Modal):
    sandbox = await backend.create(SPEC)
    for number in range(3):
        assert (await sandbox.exec(["echo", str(number)], timeout_seconds=60)).stdout == f"{number}\n".encode()
    assert len(newest(server).commands) == 1


async def test_its_tier_is_a_machine_of_its_own(backend: ModalBackend):
    assert (await backend.probe()).tier is Tier.VM


async def test_where_the_kernel_gives_no_namespace_the_agent_runs_beside_its_commands_and_says_so(
    backend: ModalBackend, server: Modal
):
    server.nested_namespaces = False
    try:
        found = await backend.probe()
        sandbox = await backend.create(SPEC)
        assert (await sandbox.exec(["echo", "hello"], timeout_seconds=60)).stdout == b"hello\n"
    finally:
        server.nested_namespaces = True
    assert not found.private_pids
    assert "a command can kill the agent" in found.detail


def test_the_agent_fits_into_a_command_line_of_modal():
    assert sum(len(word) + 1 for word in agent_argv()) < 60_000


@pytest.mark.parametrize("message", REFUSALS)
async def test_a_refused_creation_says_whether_to_come_back(backend: ModalBackend, server: Modal, message: str):
    status, kind, retryable = REFUSALS[message]
    server.refuse_creations(status, message, times=10)  # the client tries some of them again by itself
    with pytest.raises(kind, match="modal: ") as refused:
        await backend.create(SPEC)
    server.refusals.clear()
    assert message in str(refused.value)
    assert (refused.value.retryable, blame_of(refused.value)) == (retryable, Blame.INFRA if retryable else Blame.CONFIG)  # type: ignore[attr-defined, arg-type]
    assert await (await backend.create(SPEC)).alive()


async def test_a_scheduler_that_is_away_for_a_moment_is_not_noticed(backend: ModalBackend, server: Modal):
    server.refuse_creations(Status.UNAVAILABLE, "moving", times=1)
    assert await (await backend.create(SPEC)).alive()


@pytest.mark.parametrize("end", ENDS)
async def test_a_sandbox_that_ends_under_a_command_says_why(backend: ModalBackend, server: Modal, end: str):
    status, cause = ENDS[end]
    sandbox = await backend.create(SPEC)
    running = asyncio.create_task(sandbox.exec(["sleep", "4000"], timeout_seconds=4000))
    assert await sandbox.alive()
    server.finish(newest(server).id, status)
    with pytest.raises(SandboxLost) as lost:
        async with asyncio.timeout(60):
            await running
    assert (lost.value.cause, lost.value.maybe_executed, lost.value.retryable) == (cause, True, True)
    assert blame_of(lost.value) is Blame.INFRA


async def test_a_stream_that_breaks_for_a_moment_goes_on_where_it_was(backend: ModalBackend, server: Modal):
    sandbox = await backend.create(SPEC)
    server.break_streams(2)
    result = await sandbox.exec(["bash", "-c", "seq 1 100000"], timeout_seconds=60)
    server.break_streams(0)
    assert result.stdout == b"".join(b"%d\n" % number for number in range(1, 100_001))


async def test_an_agent_that_dies_is_told_from_a_sandbox_that_does(backend: ModalBackend, server: Modal):
    sandbox = await backend.create(SPEC)
    (agent,) = newest(server).commands.values()
    running = asyncio.create_task(sandbox.exec(["sleep", "4000"], timeout_seconds=4000))
    assert await sandbox.alive()
    agent.process.kill()
    with pytest.raises(SandboxLost, match="the sandbox lives, its agent does not"):
        async with asyncio.timeout(60):
            await running


async def test_a_cancelled_creation_leaves_no_container(backend: ModalBackend, server: Modal):
    before = len(server.containers)
    creating = asyncio.create_task(backend.create(SPEC))
    async with asyncio.timeout(60):
        while len(server.containers) == before:
            await asyncio.sleep(0.001)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert server.running == []


async def test_creations_are_paced(server: Modal):
    backend = ModalBackend(ModalConfig(creates_per_second=4))
    begun = time.monotonic()
    await asyncio.gather(*(backend.create(SPEC) for _ in range(4)))
    await backend.aclose()
    assert newest(server).created_at - begun > 0.7  # the fourth one's turn comes after three quarters of a second


async def test_what_a_killed_process_left_is_found_by_its_tag(backend: ModalBackend, server: Modal):
    program = (
        "import asyncio\nfrom backends.base import SandboxSpec\nfrom backends.modal import ModalBackend\n"
        "async def main():\n"
        "    await ModalBackend().create(SandboxSpec())\n    print(flush=True)\n    await asyncio.sleep(4000)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", program]
    maker = subprocess.Popen(command, stdout=subprocess.PIPE, env=child_environ(PYTHONPATH=":".join(sys.path)))
    assert maker.stdout is not None
    await asyncio.to_thread(maker.stdout.readline)
    ours = await backend.create(SPEC)
    assert await backend.reap() == ()  # its maker lives
    maker.kill()
    maker.communicate()
    assert len(await backend.reap()) == 1
    assert await ours.alive()


async def test_what_it_cannot_do_is_refused_before_anything_is_made(backend: ModalBackend, server: Modal):
    with pytest.raises(CapabilityError, match="shows no files of this machine, found /data"):
        await backend.create(SandboxSpec(readonly={"/data": "/data"}))
    sandbox = await backend.create(SPEC)
    with pytest.raises(CapabilityError, match="does not change the network"):
        await sandbox.set_network(Network.OPEN)


async def test_an_image_that_cannot_be_made_is_named(backend: ModalBackend):
    with pytest.raises(ImageError, match="no-such-image") as refused:
        await backend.create(SandboxSpec(image="no-such-image"))
    assert blame_of(refused.value) is Blame.CONFIG


def test_without_a_token_it_says_how_to_get_one(server: Modal):
    program = (
        "import asyncio\nfrom backends.modal import ModalBackend\nfrom core.errors import ConfigError\n"
        "try:\n    asyncio.run(ModalBackend().probe())\nexcept ConfigError as error:\n    print(error)\n"
    )
    variables = {
        "MODAL_TOKEN_ID": "",
        "MODAL_TOKEN_SECRET": "",
        "MODAL_CONFIG_PATH": "/nowhere",
        "PYTHONPATH": ":".join(sys.path),
    }
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=child_environ(**variables))
    assert "`modal token new` logs in" in done.stdout, done.stderr
