"""A tool is an async function: its schema comes from the type hints, its words from the docstring."""

from collections.abc import Awaitable, Callable
from typing import Literal

import pytest

from core.types import JsonObject
from environments.base import ToolMistake
from environments.tool_context import ToolContext
from environments.tools.declare import ToolDeclarationError, read_docstring, tool
from tests.fakes import FakeSandbox

CONTEXT = ToolContext(FakeSandbox(0, lambda argv: pytest.fail("no command is run")))


async def ship(context: ToolContext, item: str, count: int = 1, speed: Literal["slow", "fast"] | None = None) -> str:
    """Ship an item.
    It leaves at once.

    item: what to ship,
        by its name
    count: how many
    speed: how fast
    """
    return f"{count} {item} {speed}"


def test_the_schema_is_what_the_hints_and_the_docstring_say():
    spec = tool(ship).spec
    assert (spec.name, spec.description) == ("ship", "Ship an item. It leaves at once.")
    assert spec.parameters == {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "item": {"type": "string", "description": "what to ship, by its name"},
            "count": {"type": "integer", "description": "how many", "default": 1},
            "speed": {"anyOf": [{"enum": ["slow", "fast"], "type": "string"}, {"type": "null"}], "description": "how fast"},
        },
        "required": ["item"],
    }


async def test_arguments_that_are_left_out_have_the_defaults_of_the_function():
    assert await tool(ship).run(CONTEXT, {"item": "pen"}) == "1 pen None"
    assert await tool(ship).run(CONTEXT, {"item": "pen", "count": 3, "speed": "fast"}) == "3 pen fast"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"item": "pen", "count": "many"}, "count: "),
        ({"count": 1}, "item: Field required"),
        ({"item": "pen", "colour": "red"}, "colour: "),
    ],
)
async def test_what_does_not_fit_is_the_mistake_of_the_policy(arguments: JsonObject, problem: str):
    with pytest.raises(ToolMistake, match=problem):
        await tool(ship).run(CONTEXT, arguments)


async def test_a_method_is_called_with_its_object():
    class Shop:
        name = "corner"

        async def open(self, context: ToolContext) -> str:
            """Open the shop."""
            return f"{self.name} is open"

    opened = tool(Shop().open, name="open_shop", ends_episode=True)
    assert (opened.spec.name, opened.ends_episode, opened.spec.parameters["required"]) == ("open_shop", True, [])
    assert await opened.run(CONTEXT, {}) == "corner is open"


async def unsaid(context: ToolContext, item: str) -> str:
    """Ship an item."""
    return item


async def untyped(context: ToolContext, item) -> str:  # type: ignore[no-untyped-def]
    """Ship an item.

    item: what
    """
    return item


async def silent(context: ToolContext) -> str:
    return ""


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (unsaid, "'unsaid': parameter 'item' needs a line 'item: ...' in its docstring"),
        (untyped, "'untyped': parameter 'item' needs a type"),
        (silent, "'silent' has no docstring"),
    ],
)
def test_what_a_policy_could_not_be_told_is_refused_when_it_is_declared(function: Callable[..., Awaitable[str]], problem: str):
    with pytest.raises(ToolDeclarationError, match=problem):
        tool(function)


def test_a_line_with_a_colon_that_names_no_parameter_is_part_of_the_description():
    assert read_docstring("Say it.\nNote: loudly.\n\nword: which", ["word"]) == ("Say it. Note: loudly.", {"word": "which"})
