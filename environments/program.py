"""`python -m environments.NAME VERB ...`: an environment as a program of its own.

The verbs are those of the command line, which stands above the environments and so is never imported here: this
process becomes it.
"""

import os
import sys
from typing import NoReturn

COMMAND_LINE = "services.cli"
VERBS = {"serve": ["serve", "env"], "process": ["process"], "evaluate": ["evaluate"], "check": ["check"]}


def become(name: str) -> NoReturn:
    """Go on as `natgym VERB NAME ...` with the arguments of this process; ends it with 2 for another verb.

    `name` is one of ours, or `module:Class` of an environment that lies elsewhere.
    """
    verb, *rest = sys.argv[1:] or [""]
    if verb not in VERBS:
        sys.exit(_usage(name, verb))
    os.execv(sys.executable, [sys.executable, "-m", COMMAND_LINE, *VERBS[verb], name, *rest])  # noqa: S606


def _usage(name: str, verb: str) -> int:
    asked = verb in ("-h", "--help")
    stream = sys.stdout if asked else sys.stderr
    module = name.partition(":")[0] if ":" in name else f"environments.{name}"
    stream.write(f"usage: python -m {module} {' | '.join(VERBS)} [options]\n")
    return 0 if asked else 2
