"""The suite finds out a sandbox that is wrong, or else its green rows would mean nothing."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from backends.agent_sandbox import AgentSandbox
from tests.backends.conformance import basics, files, kill
from tests.backends.conformance.broken import BrokenBackend, FollowsLinks, KillsTheGroupOnly, ReadsWithoutBound
from tests.backends.conformance.cases import Case, Cases, Place
from tests.backends.processes import processes_with

MUST_FAIL = [
    (KillsTheGroupOnly, kill.case, "own session"),
    (KillsTheGroupOnly, kill.case, "double fork"),
    (ReadsWithoutBound, basics.case, "output over the cap"),
    (FollowsLinks, files.case, "a link to a file"),
    (FollowsLinks, files.case, "a link to a directory"),
    (FollowsLinks, files.case, "writing to a link replaces"),
    (FollowsLinks, files.case, "writing through a linked directory"),
]


def one(group: Cases, words: str) -> Case:
    (found,) = [case for case in group.all if words in case.name]
    return found


@pytest.fixture
def survivors() -> Iterator[None]:
    """What a broken sandbox leaves running is killed after the test, by its pid."""
    before = set(processes_with("sleep\x004000."))
    yield
    for pid in set(processes_with("sleep\x004000.")) - before:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("survivors")
@pytest.mark.parametrize(("kind", "group", "words"), MUST_FAIL, ids=[f"{row[0].__name__}: {row[2]}" for row in MUST_FAIL])
async def test_a_broken_sandbox_is_found_out(kind: type[AgentSandbox], group: Cases, words: str):
    case = one(group, words)
    backend = BrokenBackend(kind)
    try:
        place = Place(backend, await backend.probe(), await backend.create(case.spec))
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            await case.run(place)
    finally:
        await backend.aclose()


async def test_the_same_cases_pass_on_a_sandbox_that_is_right():
    for _, group, words in MUST_FAIL:
        backend = BrokenBackend(AgentSandbox)
        try:
            case = one(group, words)
            await case.run(Place(backend, await backend.probe(), await backend.create(case.spec)))
        finally:
            await backend.aclose()
