"""Every case on every backend of the registry. What is not here or not promised is skipped by name."""

import os

import pytest

from backends.base import Capabilities
from core.errors import MissingRuntime
from tests.backends.conformance import basics, control, files, isolation, kill, lifecycle, limits
from tests.backends.conformance.cases import Case, Place, pid_namespace
from tests.backends.conformance.registry import RUNTIMES, runtime
from tests.backends.processes import processes_with

GROUPS = (basics, kill, limits, isolation, control, files, lifecycle)
CASES = {case.name: case for group in GROUPS for case in group.case.all}
PROBED: dict[str, Capabilities] = {}
"""Of each backend, found once: a probe makes a sandbox, as many cases do."""


async def proven_private(place: Place) -> bool:
    """Whether a command of the sandbox is in a pid namespace of its own, seen from outside."""
    mark = f"399{os.urandom(4).hex()}"
    program = await place.sandbox.spawn(["bash", "-c", f"sleep 4000; : {mark}"])
    while not (found := processes_with(mark)):
        await place.sandbox.alive()
    private = all(pid_namespace(pid) != pid_namespace() for pid in found)
    await program.kill()
    return private


async def run_case(case: Case, name: str) -> None:
    """Run one case on the backend of that name; skips where it cannot be asked for."""
    async with runtime(name)() as backend:
        capabilities = PROBED.get(name) or PROBED.setdefault(name, await backend.probe())
        if lacking := case.lacking(capabilities):
            pytest.skip(lacking)
        place = Place(backend, capabilities, await backend.create(case.spec))
        if case.dangerous and not await proven_private(place):
            pytest.skip(f"{name}: its processes are not apart from this machine's, so this would harm it")
        await case.run(place)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", RUNTIMES)
async def test_conformance(name: str, case: str):
    try:
        await run_case(CASES[case], name)
    except MissingRuntime as missing:
        pytest.skip(f"{name}: {missing}")
