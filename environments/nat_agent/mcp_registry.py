"""The MCP servers that a plan may use, as data: one JSON file a server in `mcp/`, listed here.

An entry says how the real server is started, what it needs, and which tools it has. It also says what its stand-in
draws answers from, so that a scenario runs offline with data of its own.
"""

import random
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from core.errors import BadData
from core.types import JsonObject, Value
from environments.nat_agent.inputs import draw
from environments.nat_agent.plan import ArgumentRecipe, PlannedServer
from environments.nat_agent.schemas import mismatch, schema_problem

FOLDER = Path(__file__).parent / "mcp"
NAMES = ("yahoo", "fmp", "stockscreen", "exa", "linkup", "sheets", "airtable", "github", "gitlab")
"""In this order, which seeded choices depend on."""
TRIES = 8

Recipes = Mapping[str, ArgumentRecipe | dict[str, ArgumentRecipe]]
"""How to draw the values of an object; a mapping in place of a recipe is an object in it."""


class Category(StrEnum):
    """What a server is good for."""

    FINANCIAL = "financial"
    RESEARCH = "research"
    DATA = "data"
    CODE = "code"


class Launch(Value):
    """How the real server is reached: a command on stdio, or an address."""

    transport: Literal["stdio", "streamable-http", "sse"]
    command: str | None = None
    args: tuple[str, ...] = ()
    url: str | None = Field(default=None, pattern="^https://", description="may hold ${VARIABLE}, never a key")

    @model_validator(mode="after")
    def _goes_with_its_transport(self) -> Self:
        if (self.transport == "stdio") != (self.command is not None) or (self.transport == "stdio") == (self.url is not None):
            raise ValueError(f"transport {self.transport}: expected {'a command' if self.transport == 'stdio' else 'a url'}")
        return self


class Variable(Value):
    """An environment variable that the real server reads."""

    name: str = Field(pattern="^[A-Z][A-Z0-9_]*$")
    purpose: str
    required: bool


class McpTool(Value):
    """One tool of a server: as `tools/list` gives it, and what its stand-in is asked and answers."""

    name: str = Field(pattern="^[A-Za-z0-9_-]+$")
    description: str
    input_schema: JsonObject
    inputs: dict[str, ArgumentRecipe | dict[str, ArgumentRecipe]]
    """How a scenario draws arguments."""
    answer: dict[str, ArgumentRecipe | dict[str, ArgumentRecipe]] = Field(min_length=1)
    """How a stand-in draws what it answers."""

    @field_validator("input_schema")
    @classmethod
    def _is_a_schema(cls, schema: JsonObject) -> JsonObject:
        if problem := schema_problem(schema):
            raise ValueError(problem)
        return schema

    @model_validator(mode="after")
    def _draws_what_the_schema_takes(self) -> Self:
        chance = random.Random(self.name)
        for _ in range(TRIES):
            if problem := mismatch(draw_object(self.inputs, chance), self.input_schema):
                raise ValueError(f"inputs: {problem}")
        return self

    def listed(self) -> JsonObject:
        """The entry of the tool in an answer to `tools/list`."""
        return {"name": self.name, "description": self.description, "inputSchema": self.input_schema}


class McpServer(Value):
    """One server."""

    name: str = Field(pattern="^[a-z][a-z0-9_]*$")
    title: str
    package: str
    """What plans install by, and the command of the stand-in."""
    categories: tuple[Category, ...] = Field(min_length=1)
    capabilities: tuple[str, ...] = Field(min_length=1)
    launch: Launch
    environment: tuple[Variable, ...] = ()
    tools: tuple[McpTool, ...] = Field(min_length=1)

    def planned(self, *tools: str) -> PlannedServer:
        """The server as a plan names it: with these tools, or with its first one."""
        return PlannedServer(name=self.name, package=self.package, tools=tools or (self.tools[0].name,))

    def tool(self, name: str) -> McpTool | None:
        """The tool of that name."""
        return next((tool for tool in self.tools if tool.name == name), None)


@cache
def servers() -> tuple[McpServer, ...]:
    """All servers, in a fixed order."""
    return tuple(read_server(FOLDER / f"{name}.json") for name in NAMES)


def read_server(path: Path) -> McpServer:
    """The server of one file. Raises BadData naming file and field where it describes none."""
    try:
        return McpServer.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise BadData(f"{path}: {' '.join(str(error).split())[:300]}") from error


def server_names() -> tuple[str, ...]:
    """The names of all servers."""
    return NAMES


def find_server(name: str) -> McpServer | None:
    """The server of that name or package."""
    return next((server for server in servers() if name in (server.name, server.package)), None)


def find_servers(category: Category | None = None, capability: str = "") -> tuple[McpServer, ...]:
    """The servers of a category, of any where there is none given, that can do what `capability` says in part."""
    wanted = capability.casefold()
    return tuple(
        server
        for server in servers()
        if (category is None or category in server.categories)
        and any(wanted in text.casefold() for text in (*server.capabilities, server.title))
    )


def catalogue() -> tuple[PlannedServer, ...]:
    """Every server as a plan names it, with its first tool."""
    return tuple(server.planned() for server in servers())


def draw_object(recipes: Recipes, chance: random.Random) -> JsonObject:
    """An object drawn from recipes; the same `chance` state gives the same one."""
    drawn: JsonObject = {}
    for name, recipe in recipes.items():
        value: JsonValue = draw(recipe, chance) if isinstance(recipe, dict) else draw({name: recipe}, chance)[name]
        drawn[name] = value
    return drawn
