"""Toolsets: named groups of tools that may include each other, and which of them one group of episodes is given.

A tool whose requirements are not met is left out, and `Toolbox.left_out` says why. Toolsets that come by chance are
drawn once for a group, from the group's seed, so that its members differ in nothing but what they did.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from pydantic import Field, field_validator

from core.config import Config
from core.errors import ConfigError, UnknownName
from core.logs import get_logger
from core.types import Task, ToolSpec
from environments.base import Tool
from environments.tools.files import file_tools
from environments.tools.mcp_servers import McpServer, mcp_tools
from environments.tools.python_repl import python_tools
from environments.tools.terminal import terminal_tools
from environments.tools.todo import todo_tools
from environments.tools.web import WebConfig, web_tools

log = get_logger("toolsets")


class Toolset(Config):
    """Tools by name, and the toolsets that belong to it."""

    tools: tuple[str, ...] = ()
    includes: tuple[str, ...] = ()


TOOLSETS: Mapping[str, Toolset] = {
    "terminal": Toolset(tools=("terminal",)),
    "files": Toolset(tools=("read_file", "write_file", "patch", "search_files")),
    "python": Toolset(tools=("python_repl",)),
    "todo": Toolset(tools=("todo",)),
    "web": Toolset(tools=("web_search", "web_extract")),
    "coding": Toolset(includes=("terminal", "files")),
    "research": Toolset(includes=("web", "python", "todo")),
}


class ToolsConfig(Config):
    """Which tools an environment offers."""

    use: tuple[str, ...] | None = None
    """Toolsets of every episode; None: those that the environment offers unless told otherwise."""
    chances: dict[str, float] = Field(default_factory=dict)
    """Toolset -> the chance that a group is given it, each for itself; where `use` is empty a group gets at least one."""
    own: dict[str, Toolset] = Field(default_factory=dict)
    """Toolsets beside those that come with natgym."""
    web: WebConfig = WebConfig()
    mcp: dict[str, McpServer] = Field(default_factory=dict)
    """Name -> a server of the Model Context Protocol, which is a toolset of that name."""

    @field_validator("chances")
    @classmethod
    def _are_chances(cls, chances: dict[str, float]) -> dict[str, float]:
        for name, chance in chances.items():
            if not 0 <= chance <= 1:
                raise ValueError(f"{name}: expected a chance between 0 and 1, found {chance:g}")
        return chances


def expand(names: Iterable[str], known: Mapping[str, Toolset]) -> tuple[str, ...]:
    """The tools of toolsets and of what they include, each once, in order.

    Raises UnknownName, and ConfigError naming the ring where a toolset includes itself.
    """
    found: dict[str, None] = {}

    def walk(name: str, path: Sequence[str]) -> None:
        if name in path:
            raise ConfigError(f"toolset {name!r} includes itself: {' -> '.join([*path[path.index(name) :], name])}")
        if name not in known:
            raise UnknownName("toolset", name, tuple(known))
        found.update(dict.fromkeys(known[name].tools))
        for inner in known[name].includes:
            walk(inner, [*path, name])

    for name in names:
        walk(name, [])
    return tuple(found)


class Toolbox:
    """The tools that an environment offers. Made with `Toolbox.open`; holds nothing that would have to be closed."""

    def __init__(
        self, use: Sequence[str], chances: Mapping[str, float], sets: Mapping[str, Toolset], tools: Iterable[Tool]
    ) -> None:
        self._use, self._chances, self._sets = use, chances, sets
        known = {tool.spec.name: tool for tool in tools}
        wanted = expand([*use, *chances], sets)
        for name in wanted:
            if name not in known:
                raise UnknownName("tool", name, tuple(known))
        missing = {name: "; ".join(filter(None, (lacks() for lacks in known[name].requires))) for name in wanted}
        self.left_out = {name: problem for name, problem in missing.items() if problem}
        """Tool -> what it lacks and how to get it."""
        self.tools = tuple(known[name] for name in wanted if name not in self.left_out)
        for name, problem in self.left_out.items():
            log.warning("tool_left_out", tool=name, problem=problem)

    @classmethod
    def empty(cls) -> Self:
        """No tools: what an environment has until it is entered."""
        return cls((), {}, {}, ())

    @classmethod
    async def open(
        cls, config: ToolsConfig, use: Sequence[str] = (), extra: Mapping[str, Sequence[Tool]] | None = None
    ) -> Self:
        """The tools that a config names, `use` where it names none; `extra` are toolsets of the environment's own.

        MCP servers are asked what they offer. Raises ConfigError for a name given twice or a server that does not answer.
        """
        tools = [*terminal_tools(), *file_tools(), *python_tools(), *todo_tools(), *web_tools(config.web)]
        sets = dict(TOOLSETS)
        added = {**(extra or {}), **{name: await mcp_tools(name, server) for name, server in config.mcp.items()}}
        for name, own in [*config.own.items(), *((name, _set_of(inner)) for name, inner in added.items())]:
            if name in sets:
                raise ConfigError(f"toolset {name!r}: there is one of that name; choose another")
            sets[name] = own
        tools += [tool for inner in added.values() for tool in inner]
        return cls(use if config.use is None else config.use, config.chances, sets, tools)

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What a task offers where nothing is drawn: every tool that may be offered."""
        return tuple(tool.spec for tool in self.tools)

    def of(self, task: Task) -> tuple[Tool, ...]:
        """The tools that a task offers."""
        offered = {spec.name for spec in task.tools}
        return tuple(tool for tool in self.tools if tool.spec.name in offered)

    def draw(self, task: Task, seed: int) -> Task:
        """The task with the toolsets of every episode and those that the seed gives; `Environment.of_group` calls it.

        What the task offered does not count: it may have been made where the environment was not entered.
        """
        dice = random.Random(seed)
        drawn = [name for name, chance in self._chances.items() if dice.random() < chance]
        if not drawn and self._chances and not self._use:
            drawn = [max(self._chances, key=lambda name: self._chances[name])]
        names = expand([*self._use, *drawn], self._sets)
        return task.model_copy(update={"tools": tuple(tool.spec for tool in self.tools if tool.spec.name in names)})


def _set_of(tools: Sequence[Tool]) -> Toolset:
    return Toolset(tools=tuple(tool.spec.name for tool in tools))
