"""The contract of an environment: tasks, tools, a reward and gold answers, and nothing else.

An environment object lives as long as its server and holds what is shared (a dataset, an evaluator). What belongs
to one episode is passed as an argument and never parked on `self`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import ClassVar, Protocol, Self

from backends.base import SandboxSpec
from core.config import Config
from core.registry import Registry
from core.types import JsonObject, Reward, Task, ToolSpec, Trajectory, Turn
from environments.tool_context import ToolContext


class Split(StrEnum):
    """Which part of the tasks: what is learned from, and what is only measured on."""

    TRAIN = "train"
    HELD_OUT = "held_out"


@dataclass(frozen=True)
class Tool:
    """A tool that a policy may call: its schema, and what answers.

    `run` gets arguments that the schema accepted and returns the text that the policy reads. It raises ToolMistake
    for what the policy did wrong; anything else that it raises is a Failure of the episode.
    """

    spec: ToolSpec
    run: Callable[[ToolContext, JsonObject], Awaitable[str]]
    ends_episode: bool = False
    requires: Sequence[Callable[[], str]] = ()
    """Each says what is missing and how to get it, in a few words, or "": a tool that lacks something is not offered."""


class ToolMistake(Exception):
    """The policy used a tool wrongly; the message is its answer."""


@dataclass(frozen=True)
class Attack:
    """An answer that tries to earn what it did not do, and the most that it may earn."""

    name: str
    task: Task
    """With an id that no other task and no other attack has."""
    completions: Sequence[str]
    """One a turn, as `Environment.gold` gives them."""
    at_most: Mapping[str, float]
    """`total`, or the name of a part or metric of the reward, and what it must not exceed."""


class Environment(Protocol):
    """What a researcher writes: a class with this as its base, and of its own name, tasks, tools, reward and gold.

    The rest has defaults that do nothing. Entered once per server with `async with`.
    """

    config_type: ClassVar[type[Config]] = Config
    """What the environment is made with: `NatAgent(NatAgentConfig())`."""
    check_settings: ClassVar[Mapping[str, str]] = {}
    """Fields of its config, and the values with which its reward is at its most thorough: with these no attack may win."""
    name: str
    max_turns: int = 16

    def __init__(self, config: Config | None = None) -> None:
        """Made with a config of `config_type`; starts nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def tasks(self, split: Split) -> Sequence[Task]:
        """All tasks of a split, in a fixed order. Before the environment is entered they may lack tools; see `of_group`."""
        ...

    def tools(self, task: Task) -> Sequence[Tool]:
        """The tools of one task; their specs are `task.tools`."""
        ...

    def of_group(self, task: Task, seed: int) -> Task:
        """The task as all members of one group get it, with its tools; those by chance are drawn here, from the seed."""
        return task

    def sandbox(self, task: Task) -> SandboxSpec:
        """What the episode's sandbox is made of."""
        return SandboxSpec()

    async def prepare(self, task: Task, context: ToolContext) -> None:
        """Put into a fresh sandbox what the task begins with. What it raises becomes a Failure."""

    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        """Score a finished episode in the sandbox that it left behind. What it raises becomes a Failure."""
        ...

    def gold(self, task: Task) -> Sequence[str]:
        """Completions, one a turn, of an expert that earns the full reward: text as a hermes-format model writes it."""
        ...

    def attacks(self) -> Sequence[Attack]:
        """Wrong answers and attacks on the reward, in a fixed order; `natgym check` plays them."""
        return ()

    def report(self, trajectories: Sequence[Trajectory]) -> dict[str, float]:
        """Named figures of an evaluation, such as success_rate, over scored trajectories."""
        return {}


def wrong_answers(task: Task, answers: Mapping[str, Sequence[str]], at_most: float = 0.0) -> list[Attack]:
    """Attacks on one task: what each is called -> its completions, none of which may earn a total above `at_most`."""
    return [
        Attack(name, task.model_copy(update={"id": f"{task.id}-{number}"}), completions, {"total": at_most})
        for number, (name, completions) in enumerate(answers.items())
    ]


ENVIRONMENTS: Registry[Callable[..., Environment]] = Registry(
    "environment",
    {
        "gsm8k": "environments.gsm8k:Gsm8k",
        "nat_agent": "environments.nat_agent.environment:NatAgent",
        "reverse_text": "environments.reverse_text:ReverseText",
        "swe": "environments.swe.environment:Swe",
        "terminal_tasks": "environments.terminal_tasks:TerminalTasks",
    },
    group="natgym.environments",
)
