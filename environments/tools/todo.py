"""A list of steps that a policy keeps for itself. It lives as long as the episode and costs no sandbox."""

from contextlib import nullcontext
from enum import StrEnum

from pydantic import BaseModel, Field

from environments.base import Tool, ToolMistake
from environments.tool_context import ToolContext
from environments.tools.declare import tool

MAX_ITEMS = 100


class State(StrEnum):
    """How far a step is."""

    PENDING = "pending"
    DOING = "doing"
    DONE = "done"


MARKS = {State.PENDING: "[ ]", State.DOING: "[>]", State.DONE: "[x]"}


class Item(BaseModel):
    """One step."""

    text: str = Field(max_length=500)
    state: State = State.PENDING


def todo_tools() -> list[Tool]:
    """todo."""
    return [tool(todo)]


async def todo(context: ToolContext, items: list[Item] | None = None) -> str:
    """Write down the steps of the task and how far each is, or read them.

    items: the whole list, in order, in place of the one before; left out: the list is only read
    """
    kept = await context.held("todo", lambda: nullcontext(list[Item]()))
    if items is not None:
        if len(items) > MAX_ITEMS:
            raise ToolMistake(f"items: {len(items)} steps; at most {MAX_ITEMS} can be kept")
        kept[:] = items
    done = sum(item.state is State.DONE for item in kept)
    lines = [f"{MARKS[item.state]} {item.text}" for item in kept]
    return "\n".join([*lines, f"{done} of {len(kept)} done"])
