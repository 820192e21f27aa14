"""The shell of an episode: one that keeps its directory, environment and functions between calls."""

from backends.base import RunResult, SessionKind
from environments.base import Tool
from environments.tool_context import ToolContext
from environments.tools.declare import tool

MAX_SECONDS = 120


def terminal_tools() -> list[Tool]:
    """terminal."""
    return [tool(terminal)]


async def terminal(context: ToolContext, command: str, timeout_seconds: int = 30) -> str:
    """Run a command in a bash shell that stays open: its directory, variables and functions are kept.

    command: one or more lines of bash
    timeout_seconds: after so many the shell is killed with everything it started, and a new one begins; at most 120
    """
    seconds = min(max(1, timeout_seconds), MAX_SECONDS)
    return told(await context.session(SessionKind.BASH, command, timeout_seconds=seconds), seconds)


def told(result: RunResult, seconds: float) -> str:
    """What a policy reads of one run of a session: output, and whatever else it has to know."""
    text = (result.stdout + result.stderr).decode("utf-8", errors="replace")
    notes = []
    if result.timed_out:
        notes.append(f"stopped after {seconds:g} seconds")
    elif result.signal is not None:
        notes.append(f"killed by signal {result.signal}")
    elif result.exit_code:
        notes.append(f"exit code {result.exit_code}")
    if result.ended:
        notes.append("the session has ended; the next call starts a fresh one")
    if not notes:
        return text or "(no output)"
    return "\n".join([*([text.removesuffix("\n")] if text else []), f"[{'; '.join(notes)}]"])
