"""What a policy reads of a tool's long output: head and tail, and where the whole of it lies in its sandbox."""

from backends.base import SandboxPathError
from backends.errors import PathProblem
from environments.tool_context import ToolContext
from tool_call_parsers.schemas import is_text

FOLDERS = ("/tmp/tool_output", "/workspace/.tool_output")  # noqa: S108 - of the sandbox, which nobody else has
"""Where it is written; the second is for backends that show /workspace only. No path here comes from a policy."""
MAX_STORED = 1 << 20
"""Characters that are kept of one output."""


async def shown(text: str, limit: int, number: int, context: ToolContext) -> str:
    """At most `limit` characters of a text. A longer one is stored under `number`, that of its call in the episode.

    Where it cannot be stored, because the policy filled its disk, say, the middle is left out. Raises SandboxError
    where the sandbox is gone.
    """
    text = text if is_text(text) else text.encode(errors="replace").decode()
    if len(text) <= limit:
        return text
    path = await _stored(text[:MAX_STORED], f"{number:04d}.txt", context)
    if path is None:
        note = f"\n... {len(text) - limit} characters left out ...\n"
    else:
        note = f"\n... the middle is left out; all {len(text)} characters: {path} ...\n"
    kept = max(0, limit - len(note))
    return text[: kept - kept // 2] + note + text[len(text) - kept // 2 :]


async def _stored(text: str, name: str, context: ToolContext) -> str | None:
    """Where the text lies now; None where the sandbox has no place for it."""
    for folder in FOLDERS:
        try:
            await context.write_text(f"{folder}/{name}", text)
        except SandboxPathError as error:
            if error.problem is not PathProblem.ESCAPES:
                return None
        else:
            return f"{folder}/{name}"
    return None
