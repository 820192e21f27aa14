"""The in-sandbox agent as one file, so that a sandbox needs no folder of ours: any Python from 3.9 runs it.

python3 -I -S -B agent.py NUMBER      speak over the stream socket of that number, which was inherited
python3 -I -S -B agent.py stdio       speak over standard input and output
"""

import subprocess
from functools import cache
from hashlib import sha256
from pathlib import Path

from core.errors import MissingRuntime

FOLDER = Path(__file__).with_name("agent")
PACKAGE = "backends.agent"
MODULES = (
    "frames",
    "landlock",
    "processes",
    "nannies",
    "loop",
    "files",
    "copies",
    "trees",
    "usage",
    "jobs",
    "sessions",
    "main",
)
"""In the order of their imports."""
RUN = f"""
for name, code in MODULES:
    module = type(sys)(name)
    sys.modules[name] = module
    exec(code, module.__dict__)
sys.modules["{PACKAGE}.main"].main()
"""
COMPILE = """
import ast, marshal, sys
sources = ast.literal_eval(sys.stdin.read())
sys.stdout.buffer.write(marshal.dumps([(name, compile(source, name, "exec", optimize=2)) for name, source in sources]))
"""
TERSE = ("-X", "no_debug_ranges")
"""Leaves out what only the reader of a trace would miss; an older interpreter ignores it."""
COMPILE_SECONDS = 60.0
FLAGS = ("-I", "-S", "-B")


@cache
def agent_source() -> bytes:
    """The agent as one Python program, the same bytes every time."""
    modules = ",\n".join(f"    ({name!r}, compile({source!r}, {name!r}, 'exec'))" for name, source in _sources())
    return f"# natgym's agent inside a sandbox\nimport sys\n\nMODULES = [\n{modules},\n]{RUN}".encode()


def agent_digest() -> str:
    """The content of the agent in 16 characters, for the name of a file that is shared by sandboxes."""
    return sha256(agent_source()).hexdigest()[:16]


def agent_command(python: str, path: str, end: str) -> list[str]:
    """Run the agent's file at `path`, without the interpreter's site packages and start-up files."""
    return [python, *FLAGS, path, end]


@cache
def compiled_agent(python: str) -> bytes:
    """The agent compiled by that interpreter of this machine, for `compiled_command`: starting it takes a third less time.

    Raises MissingRuntime where that is no Python.
    """
    try:
        done = subprocess.run(
            [python, *FLAGS, *TERSE, "-c", COMPILE],
            input=repr(_sources()).encode(),
            capture_output=True,
            timeout=COMPILE_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingRuntime(f"{python}: cannot run the sandbox's agent: {error}; expected Python 3.9 or newer") from error
    if done.returncode != 0:
        message = done.stderr.decode("utf-8", "replace").strip()[-500:]
        raise MissingRuntime(f"{python}: cannot compile the sandbox's agent: {message}; expected Python 3.9 or newer")
    return done.stdout


def compiled_command(python: str, file: str | int, end: str) -> list[str]:
    """Run what `compiled_agent` returned, a path or an inherited descriptor, under the same interpreter."""
    return [python, *FLAGS, "-c", f"import marshal, sys\nMODULES = marshal.loads(open({file!r}, 'rb').read()){RUN}", end]


def _sources() -> list[tuple[str, str]]:
    return [(f"{PACKAGE}.{name}", (FOLDER / f"{name}.py").read_text(encoding="utf-8")) for name in MODULES]
