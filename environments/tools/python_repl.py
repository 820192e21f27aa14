"""The Python of an episode: variables, imports and functions are kept between calls."""

from backends.base import SessionKind
from environments.base import Tool
from environments.tool_context import ToolContext
from environments.tools.declare import tool
from environments.tools.terminal import MAX_SECONDS, told


def python_tools() -> list[Tool]:
    """python_repl."""
    return [tool(python_repl)]


async def python_repl(context: ToolContext, code: str, timeout_seconds: int = 30) -> str:
    """Run Python in an interpreter that stays open: what was defined is kept. The value of a last expression is shown.

    code: one or more lines of Python
    timeout_seconds: after so many the interpreter is killed, and a new one begins; at most 120
    """
    seconds = min(max(1, timeout_seconds), MAX_SECONDS)
    result = await context.session(SessionKind.PYTHON, code, timeout_seconds=seconds)
    # code that raised has printed its trace, which says more than the code 1 of it
    return told(result.model_copy(update={"exit_code": 0}) if result.exit_code == 1 else result, seconds)
