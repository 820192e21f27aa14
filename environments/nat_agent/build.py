"""Agents that are built to be kept: episodes of one specification until a deliverable is complete."""

from collections.abc import Mapping, Sequence

from core.types import Reward, Task, Trajectory, Turn, Value
from environments.episode import Arena, run_episode
from environments.nat_agent.conversation import Prompt
from environments.nat_agent.deliverable import counted
from environments.nat_agent.environment import NatAgent, NatAgentConfig, as_task, deliverable
from environments.nat_agent.plan import AgentPlan, AgentSpec
from environments.tool_context import ToolContext

SCORES = ("tool_generation", "integration", "workflow")


class Built(Value):
    """What one attempt left behind, and what it earned."""

    files: Mapping[str, str]
    """Text by relative path: the part that was scored."""
    reward: Reward

    @property
    def complete(self) -> bool:
        """Whether every check passed."""
        return self.reward.metrics["success"] == 1.0

    @property
    def scores(self) -> dict[str, float]:
        """Tool generation, integration and workflow, each in [0, 1]."""
        return {name: self.reward.metrics[name] for name in SCORES}


class NatBuilder(NatAgent):
    """The environment `nat_agent` with the deliverables kept, by the id of their task."""

    def __init__(self, config: NatAgentConfig | None = None) -> None:
        super().__init__(config)
        self.prompt = config.prompt if config else Prompt.SMALL
        self.built: dict[str, Built] = {}

    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        """See NatAgent.reward."""
        reward = await super().reward(task, turns, context)
        self.built[task.id] = Built(files=counted(await deliverable(context)), reward=reward)
        return reward


def project_file(plan: AgentPlan) -> str:
    """A `pyproject.toml` by which NAT finds the agent's tools where the folder is installed."""
    names = [tool.name for tool in plan.custom_tools]
    lines = [
        "[build-system]",
        'requires = ["setuptools"]',
        'build-backend = "setuptools.build_meta"',
        "",
        "[project]",
        f'name = "{"-".join(names).replace("_", "-")[:60].strip("-")}"',
        'version = "0.1.0"',
        "",
        "[tool.setuptools]",
        'packages = ["nat_tools"]',
        "",
        '[project.entry-points."nat.components"]',
        *(f'{name} = "nat_tools.{name}"' for name in names),
    ]
    return "\n".join(lines) + "\n"


async def attempt(arena: Arena, spec: AgentSpec, number: int) -> Built | Trajectory:
    """One attempt at a specification, in an arena of NatBuilder; the trajectory where it broke and was not scored."""
    builder = arena.environment
    assert isinstance(builder, NatBuilder)
    task = as_task(spec.model_copy(update={"task_id": f"{spec.task_id}-{number}"}), builder.prompt)
    trajectory = await run_episode(arena, task, task.id)
    return builder.built.pop(task.id) if trajectory.reward else trajectory
