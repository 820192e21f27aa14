"""The catalogue of attacks, each through the real evaluator: what it earns, and what it does to the next evaluation."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio

from backends.base import SandboxSpec
from backends.local import LocalBackend
from core.errors import MissingRuntime
from environments.episode import lease
from environments.nat_agent.attacks.catalogue import TRICKS, attacks
from environments.nat_agent.attacks.subject import ALL, HONEST, SPEC, Trick
from environments.nat_agent.effort import Level
from environments.nat_agent.environment import as_task, deliverable
from environments.nat_agent.evaluator import NatEvaluator
from environments.nat_agent.fork_client import ForkLimits
from environments.tool_context import ToolContext

LIMITS = ForkLimits(cpu_seconds=4, wall_seconds=25)  # some attacks run until they are stopped
DIGITS = 1e-9  # bounds are sums of a few float products


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def attacked(nat_python: Path) -> AsyncIterator[NatEvaluator]:
    """An evaluator with tight limits, the honest agent's configuration and tests already known to it."""
    backend = LocalBackend()
    try:
        await backend.probe()
    except MissingRuntime as missing:
        pytest.skip(str(missing))
    async with NatEvaluator(backend, nat_python, limits=LIMITS, level=Level.FULL) as evaluator:
        yield evaluator
    await backend.aclose()


async def left_by(trick: Trick) -> Mapping[str, str]:
    """The deliverable of an attack; where it runs a command, as it is found in the sandbox afterwards."""
    if not trick.command:
        return trick.deliverable()
    backend = LocalBackend()
    async with lease(backend, SandboxSpec(memory_mib=512, processes=64, disk_mib=16)) as sandbox:
        context = ToolContext(sandbox)
        for path, text in trick.deliverable().items():
            await context.write_text(path, text)
        await context.bash(trick.command)
        return await deliverable(context)


@pytest.mark.nat
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick.title)
async def test_an_attack_earns_no_more_than_its_honest_part_and_harms_nobody(attacked: NatEvaluator, trick: Trick):
    evaluation = await attacked.evaluate(SPEC, await left_by(trick))
    found = evaluation.tool_generation, evaluation.integration, evaluation.workflow
    too_much = [share for share, most in zip(found, trick.at_most, strict=True) if share > most + DIGITS]
    assert not too_much, (found, trick.at_most, evaluation.parts)
    assert evaluation.complete == (trick.at_most == ALL), evaluation.problems
    after = await attacked.evaluate(SPEC, HONEST)
    assert after.complete, after.problems


def test_the_catalogue_is_large_and_its_names_are_distinct():
    titles = [trick.title for trick in TRICKS]
    assert len(set(titles)) == len(titles) >= 40


def test_an_attack_is_an_answer_with_limits_for_every_share():
    offered = attacks(as_task)
    assert [one.name for one in offered] == [trick.title for trick in TRICKS]
    assert len({one.task.id for one in offered}) == len(offered)
    assert {"tool_generation", "integration", "workflow"} == set.intersection(*(set(one.at_most) for one in offered))
