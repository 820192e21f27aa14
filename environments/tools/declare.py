"""A tool from an async function: its schema comes from the type hints, its descriptions from the docstring.

    @tool
    async def read_file(context: ToolContext, path: str, limit: int = 2000) -> str:
        \"\"\"Read a text file.

        path: relative to the working directory
        limit: lines at most
        \"\"\"

Nothing that a policy may call stays without words: a parameter without a type or a line of its own is refused when
the tool is declared.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, NotRequired, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from core.types import JsonObject, ToolSpec
from environments.base import Tool, ToolMistake
from environments.tool_context import ToolContext

LINE = re.compile(r"^\s*(\w+): +(.+)$")


class ToolDeclarationError(TypeError):
    """A function that cannot be a tool as it is written."""


def tool(
    function: Callable[..., Awaitable[str]],
    *,
    name: str = "",
    ends_episode: bool = False,
    requires: Sequence[Callable[[], str]] = (),
) -> Tool:
    """The tool that a function is, called with the context and its arguments by name. A bound method is fine.

    Raises ToolDeclarationError for what a policy could not be told.
    """
    name = name or getattr(function, "__name__", "")
    _, *parameters = inspect.signature(function).parameters.values()
    description, told = read_docstring(inspect.getdoc(function) or "", [one.name for one in parameters])
    if not description:
        raise ToolDeclarationError(f"tool {name!r} has no docstring; the policy reads it")
    arguments = _adapter(name, parameters, get_type_hints(function, include_extras=True), told)

    async def run(context: ToolContext, given: JsonObject) -> str:
        try:
            values = arguments.validate_python(given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ToolMistake(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
        return await function(context, **values)

    spec = ToolSpec(name=name, description=description, parameters=_schema(arguments, parameters))
    return Tool(spec, run, ends_episode=ends_episode, requires=tuple(requires))


def read_docstring(text: str, parameters: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The description, and what lines `parameter: ...` say of each parameter; a line may go on below itself."""
    description: list[str] = []
    told: dict[str, str] = {}
    current = ""
    for line in text.splitlines():
        found = LINE.match(line)
        if found and found[1] in parameters:
            current = found[1]
            told[current] = found[2].strip()
        elif current and line.strip():
            told[current] += f" {line.strip()}"
        elif current:
            current = ""
        else:
            description.append(line.strip())
    return " ".join(part for part in description if part), told


def _adapter(
    name: str, parameters: Sequence[inspect.Parameter], hints: Mapping[str, Any], told: Mapping[str, str]
) -> TypeAdapter[dict[str, Any]]:
    """What checks arguments: those with a default may be left out, unknown ones are refused."""
    fields: dict[str, Any] = {}
    for one in parameters:
        if one.name not in hints or one.name not in told:
            lacks = "a type" if one.name not in hints else f"a line '{one.name}: ...' in its docstring"
            raise ToolDeclarationError(f"tool {name!r}: parameter {one.name!r} needs {lacks}")
        kind = Annotated[hints[one.name], Field(description=told[one.name])]
        fields[one.name] = kind if one.default is inspect.Parameter.empty else NotRequired[kind]
    shape = TypedDict(name, fields)  # type: ignore[operator, misc]
    shape.__pydantic_config__ = ConfigDict(extra="forbid")  # pyright: ignore
    return TypeAdapter(shape)  # pyright: ignore


def _schema(arguments: TypeAdapter[dict[str, Any]], parameters: Sequence[inspect.Parameter]) -> JsonObject:
    schema = arguments.json_schema()
    properties: dict[str, JsonObject] = schema.setdefault("properties", {})
    for one in parameters:
        properties[one.name].pop("title", None)
        if one.default not in (inspect.Parameter.empty, None):
            properties[one.name]["default"] = one.default
    schema.pop("title", None)
    schema.setdefault("required", [])
    return schema
