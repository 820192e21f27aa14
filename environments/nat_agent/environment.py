"""The environment `nat_agent`: build a NAT agent from a plan, in a real conversation with tools.

The evaluator lives as long as the environment and is shared by its episodes; what belongs to one episode is in its
sandbox.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from backends.base import BACKENDS, SandboxPathError, SandboxSpec
from core.config import Config
from core.types import JsonObject, Reward, Task, Trajectory, Turn
from environments.base import Attack, Environment, Split, Tool, ToolMistake
from environments.nat_agent.attacks.catalogue import attacks
from environments.nat_agent.conversation import BASH, FINISH, READ_FILE, RUN_TESTS, TOOL_SPECS, WRITE_FILE, Prompt, opening
from environments.nat_agent.dataset import SHIPPED, BrokenRows, read_dataset
from environments.nat_agent.effort import Level
from environments.nat_agent.evaluator import NatEvaluator
from environments.nat_agent.expert import MISTAKE_RATES, Expert
from environments.nat_agent.plan import AgentSpec
from environments.nat_agent.reward import Scale, nat_reward
from environments.tool_context import ToolContext

MAX_FILE_BYTES = 64 << 10
BASH_TIMEOUT_SECONDS = 20.0


class NatAgentConfig(Config):
    """Settings of the environment."""

    dataset: Path = SHIPPED
    broken_rows: BrokenRows = BrokenRows.REFUSE
    nat_python: Path = Path(".venv-nat/bin/python")
    backend: str = "local"
    parallel_evaluations: int = 2
    max_turns: int = 16
    prompt: Prompt = Prompt.SMALL
    """What the coding agent is told: `small` for the shipped policy, `nat` for models that never saw NAT 1.9."""
    level: Level = Level.STANDARD
    """How thorough the reward is; docs/reward.md says what a level tries."""
    scale: Scale = Scale.RAW


class NatAgent(Environment):
    """See environments.base.Environment."""

    config_type: ClassVar[type[Config]] = NatAgentConfig
    name = "nat_agent"
    check_settings: ClassVar[Mapping[str, str]] = {"level": Level.FULL}

    def __init__(self, config: NatAgentConfig | None = None) -> None:
        self._config = config or NatAgentConfig()
        self.max_turns = self._config.max_turns
        self._specs: dict[str, AgentSpec] = {}
        self._tasks: dict[Split, list[Task]] = {}
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Self:
        backend = BACKENDS.load(self._config.backend)()
        parallel, level = self._config.parallel_evaluations, self._config.level
        evaluator = NatEvaluator(backend, self._config.nat_python, parallel=parallel, level=level)
        self._running.push_async_callback(backend.aclose)
        self._evaluator = await self._running.enter_async_context(evaluator)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._running.aclose()

    def tasks(self, split: Split) -> Sequence[Task]:
        """The specifications of the dataset, as tasks. Raises BadData for a broken row."""
        if split not in self._tasks:
            found = read_dataset(self._config.dataset, split, self._config.broken_rows)
            self._specs |= {spec.task_id: spec for spec in found}
            self._tasks[split] = [as_task(spec, self._config.prompt) for spec in found]
        return self._tasks[split]

    def tools(self, task: Task) -> Sequence[Tool]:
        """write_file, read_file, bash, run_tests, finish."""
        return (
            Tool(WRITE_FILE, _write_file),
            Tool(READ_FILE, _read_file),
            Tool(BASH, _bash),
            Tool(RUN_TESTS, self._run_tests),
            Tool(FINISH, _finish, ends_episode=True),
        )

    def sandbox(self, task: Task) -> SandboxSpec:
        """A shell and a small disk; NAT itself runs in the evaluator's sandbox."""
        return SandboxSpec(memory_mib=512, processes=64, disk_mib=16)

    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        """Run what the agent left behind; see docs/reward.md for the weights."""
        evaluation = await self._evaluator.evaluate(self._spec(task), await deliverable(context))
        return nat_reward(evaluation, len(turns), self.max_turns, self._config.scale)

    def gold(self, task: Task) -> Sequence[str]:
        """The scripted expert without a mistake."""
        return Expert(self._spec(task)).completions()

    def attacks(self) -> Sequence[Attack]:
        """Deliverables that try to earn what they did not build."""
        return attacks(as_task)

    def demonstration(self, task: Task, seed: int) -> Sequence[str]:
        """The scripted expert with the mistakes of the warm start's mix."""
        return Expert(self._spec(task), rates=MISTAKE_RATES, seed=seed).completions()

    def report(self, trajectories: Sequence[Trajectory]) -> dict[str, float]:
        """Means over scored trajectories: success_rate, tool_generation, integration, workflow, turns."""
        rewards = [one.reward for one in trajectories if one.reward is not None]
        names = ("success_rate", "tool_generation", "integration", "workflow", "turns")
        return {name: sum(reward.metrics[name] for reward in rewards) / max(1, len(rewards)) for name in names}

    def _spec(self, task: Task) -> AgentSpec:
        """The specification of a task, whichever process made the task."""
        return self._specs.get(task.id) or AgentSpec.model_validate(task.data)

    async def _run_tests(self, context: ToolContext, arguments: JsonObject) -> str:
        return await self._evaluator.run_tests(await deliverable(context))


def as_task(spec: AgentSpec, prompt: Prompt = Prompt.SMALL) -> Task:
    """A specification as a task; its hidden part travels in `data`."""
    return Task(
        id=spec.task_id,
        environment=NatAgent.name,
        messages=opening(spec.plan, prompt),
        tools=TOOL_SPECS,
        data=spec.model_dump(mode="json"),
    )


async def deliverable(context: ToolContext) -> Mapping[str, str]:
    """The files that the agent left and that can be part of an agent, as text by relative path; too large ones are left out."""
    found: dict[str, str] = {}
    for path in await context.files():
        if path.endswith((".py", ".yml", ".sh", ".toml")):
            with suppress(SandboxPathError):
                found[path] = await context.read_text(path, max_bytes=MAX_FILE_BYTES)
    return found


@contextmanager
def _own_mistake() -> Iterator[None]:
    """A path that cannot be used is the policy's doing and gets an answer."""
    try:
        yield
    except SandboxPathError as error:
        raise ToolMistake(str(error)) from error


async def _write_file(context: ToolContext, arguments: JsonObject) -> str:
    with _own_mistake():
        await context.write_text(str(arguments["path"]), str(arguments["content"]))
    return "written"


async def _read_file(context: ToolContext, arguments: JsonObject) -> str:
    with _own_mistake():
        return await context.read_text(str(arguments["path"]), max_bytes=MAX_FILE_BYTES)


async def _bash(context: ToolContext, arguments: JsonObject) -> str:
    result = await context.bash(str(arguments["command"]), timeout_seconds=BASH_TIMEOUT_SECONDS)
    text = (result.stdout + result.stderr).decode("utf-8", errors="replace")
    if result.timed_out:
        return f"{text}stopped after {BASH_TIMEOUT_SECONDS:.0f} seconds"
    return text if result.exit_code == 0 else f"{text}exit code {result.exit_code}"


async def _finish(context: ToolContext, arguments: JsonObject) -> str:
    return "done"
