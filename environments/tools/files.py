"""Reading, writing, changing and searching files of the sandbox."""

import re

from environments.base import Tool, ToolMistake
from environments.tool_context import ToolContext
from environments.tools.declare import tool

MAX_FILE_BYTES = 1 << 20
MAX_LINES = 2000
MAX_MATCHES = 100
MAX_MATCH_CHARACTERS = 300
SEARCH_SECONDS = 20.0
NOT_SEARCHED = (".git", "__pycache__", "node_modules")
# the pattern and the place are arguments of their own, so neither is ever read as an option or by a shell
SEARCH = ["grep", "-rnIE", "--max-count=50", *[f"--exclude-dir={name}" for name in NOT_SEARCHED]]


def file_tools() -> list[Tool]:
    """read_file, write_file, patch, search_files."""
    return [tool(read_file), tool(write_file), tool(patch), tool(search_files)]


async def read_file(context: ToolContext, path: str, first_line: int = 1, lines: int = MAX_LINES) -> str:
    """Read a text file. Lines come with their numbers and a tab before them.

    path: relative to the working directory, or absolute
    first_line: where to begin, counted from 1
    lines: how many at most
    """
    found = (await context.read_text(path, max_bytes=MAX_FILE_BYTES)).splitlines()
    if not found:
        return "(the file is empty)"
    start = max(1, first_line)
    if start > len(found):
        raise ToolMistake(f"first_line: {first_line}, but {path} has {len(found)} lines")
    chosen = found[start - 1 : start - 1 + min(max(1, lines), MAX_LINES)]
    text = "\n".join(f"{number}\t{line}" for number, line in enumerate(chosen, start))
    last = start + len(chosen) - 1
    return text if last == len(found) else f"{text}\n... {len(found) - last} more lines, from {last + 1} on"


async def write_file(context: ToolContext, path: str, content: str) -> str:
    """Write a file, in place of one that is there. Its directories are made.

    path: relative to the working directory, or absolute
    content: the whole text
    """
    await context.write_text(path, content)
    return f"{path} written, {len(content.splitlines())} lines"


async def patch(context: ToolContext, path: str, old: str, new: str, everywhere: bool = False) -> str:
    """Replace a piece of text in a file by another. The piece has to be there exactly once, or everywhere has to be set.

    path: relative to the working directory, or absolute
    old: the text to replace, exactly as it stands, indentation included
    new: what comes in its place
    everywhere: replace each occurrence
    """
    if not old:
        raise ToolMistake("old: is empty; give the text to replace")
    data = await context.read(path, max_bytes=MAX_FILE_BYTES)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ToolMistake(f"{path}: is no text that could be patched") from error
    count = text.count(old)
    if count == 0:
        raise ToolMistake(f"{path}: does not contain the old text{_near(text, old)}")
    if count > 1 and not everywhere:
        raise ToolMistake(f"{path}: contains the old text {count} times; give more lines around it, or set everywhere")
    await context.write_text(path, text.replace(old, new))
    return f"{path} patched, {count} place{'s' if count > 1 else ''}"


async def search_files(context: ToolContext, pattern: str, path: str = ".") -> str:
    """Find lines that match a regular expression in the files of a folder. Answers are FILE:LINE:TEXT.

    pattern: an extended regular expression, as grep -E takes it
    path: the folder or file to look in
    """
    result = await context.run([*SEARCH, "-e", pattern, "--", path], timeout_seconds=SEARCH_SECONDS)
    if result.timed_out:
        raise ToolMistake(f"pattern: the search took more than {SEARCH_SECONDS:g} seconds; look in a smaller folder")
    # grep walks folders in no order; the lines of one file are in order already
    matches = sorted(result.stdout.decode("utf-8", errors="replace").splitlines(), key=lambda line: line.partition(":")[0])
    if not matches and result.exit_code not in (0, 1):
        raise ToolMistake(result.stderr.decode("utf-8", errors="replace").removeprefix("grep: ").strip()[:300])
    if not matches:
        return "no match"
    shown = [line.removeprefix("./")[:MAX_MATCH_CHARACTERS] for line in matches[:MAX_MATCHES]]
    more = len(matches) - len(shown)
    return "\n".join([*shown, *([f"... {more} more"] if more else [])])


def _near(text: str, old: str) -> str:
    """Where the first line of what was looked for stands, spaces aside: most misses are a matter of indentation."""
    wanted = re.sub(r"\s+", "", next((line for line in old.splitlines() if line.strip()), ""))
    for number, line in enumerate(text.splitlines(), 1):
        if wanted and re.sub(r"\s+", "", line) == wanted:
            return f"; line {number} has its first line with other spaces: {line!r}"[:300]
    return ""
