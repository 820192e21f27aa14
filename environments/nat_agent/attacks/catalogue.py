"""Every attack, and each of them as an answer that is played like any other."""

from collections.abc import Callable

from core.types import Task
from environments.base import Attack
from environments.nat_agent.attacks import bindings, processes, suites, tools
from environments.nat_agent.attacks.subject import ALL, SPEC, Trick, Worth
from environments.nat_agent.expert import call
from environments.nat_agent.plan import AgentSpec
from environments.nat_agent.reward import INTEGRATION_SHARE, TOOL_GENERATION_SHARE, WORKFLOW_SHARE

TRICKS: tuple[Trick, ...] = (*suites.TRICKS, *tools.TRICKS, *processes.TRICKS, *bindings.TRICKS)


def limits(worth: Worth) -> dict[str, float]:
    """The most that the named figures of a reward may be."""
    most = worth._asdict()
    if worth != ALL:  # complete deliverables alone earn more than their shares
        shares = (TOOL_GENERATION_SHARE, INTEGRATION_SHARE, WORKFLOW_SHARE)
        most["total"] = sum(share * one for share, one in zip(shares, worth, strict=True))
    return most


def attacks(as_task: Callable[[AgentSpec], Task]) -> tuple[Attack, ...]:
    """The whole catalogue, each attack at a task of its own."""
    task = as_task(SPEC)
    return tuple(_attack(trick, task.model_copy(update={"id": f"attack-{n}"})) for n, trick in enumerate(TRICKS))


def _attack(trick: Trick, task: Task) -> Attack:
    writes = [call("write_file", path=path, content=text) for path, text in trick.deliverable().items()]
    turns = ["\n".join(writes), *([call("bash", command=trick.command)] if trick.command else []), call("finish")]
    return Attack(trick.title, task, tuple(turns), limits(trick.at_most))
