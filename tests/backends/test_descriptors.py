"""A sandbox starts whatever number its socket has in the process that makes it."""

import os

from backends.agent.main import OUTGOING
from backends.base import SandboxSpec
from tests.backends.conftest import AnyBackend


async def test_a_busy_process_makes_sandboxes_over_sockets_of_every_number_up_to_the_agents_own(backend: AnyBackend):
    opened = [os.open(os.devnull, os.O_RDONLY)]
    try:
        while opened[-1] < OUTGOING - 6:
            opened.append(os.open(os.devnull, os.O_RDONLY))
        while opened[-1] <= OUTGOING:
            sandbox = await backend.create(SandboxSpec())
            assert await sandbox.alive()
            await sandbox.destroy()
            opened.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for descriptor in opened:
            os.close(descriptor)
