"""One evaluation: answers the host's requests one at a time, in the order in which they come.

Nothing in here decides what anything is worth. Once agent code was loaded, every answer may be forged; the host
compares each with what it knows.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from runtime.agent_tools import AgentTools
from runtime.frames import Channel
from runtime.setup_script import SetupScript
from runtime.suite import Suite, prepared
from runtime.trusted_config import check_config
from runtime.workflow import run_workflow

MAX_ERROR = 300


def live(sock: socket.socket, suites: dict[bool, Suite]) -> None:
    """Answer requests until the host hangs up. `suites` were made for the workspace that this is, or for another one."""
    workspace = Path.cwd()
    mine = suites if suites[False].workspace == workspace else prepared(workspace)
    evaluation = Evaluation(Channel(sock), workspace, mine)
    asyncio.set_event_loop(evaluation.loop)
    sys.path.append(str(workspace))  # last: nothing in the workspace shadows an installed module
    with suppress(EOFError):
        evaluation.answer_all()
    os._exit(0)


class Evaluation:
    """The state between requests: the workspace, the loaded tools, one event loop, the suites (see suite.prepared)."""

    def __init__(self, channel: Channel, workspace: Path, suites: dict[bool, Suite]) -> None:
        self.channel, self.workspace = channel, workspace
        self.loop = asyncio.new_event_loop()
        self.tools = AgentTools(self._run)
        self.setup = SetupScript(workspace)
        self.operations: dict[str, Callable[[dict], object]] = {
            "files": self.write_files,
            "load": lambda request: self.tools.load(request["names"]),
            "call": self.tools.call,
            "config": lambda request: self._run(check_config(request)),
            "setup": self.setup.run,
            "install": self.setup.install,
            "workflow": lambda request: self._run(run_workflow(request, self.channel)),
            "tests": lambda request: suites[request.get("explain", False)].run(),
        }

    def answer_all(self) -> None:
        """One request after the other. Raises EOFError when the host has hung up."""
        while True:
            self.channel.send(self._answer(self.channel.receive()))

    def end(self) -> None:
        """Leave nothing open; a child needs no end, it is killed."""
        self.tools.end()
        self.loop.close()

    def _answer(self, request: dict) -> dict:
        try:
            return {"result": self.operations[request["do"]](request)}
        except Exception as error:
            return {"error": describe(error)}
        except BaseException as error:  # sys.exit in agent code ends a request, not the evaluation
            return {"error": f"{type(error).__name__} raised"}

    def _run(self, coroutine: object) -> object:
        return self.loop.run_until_complete(coroutine)

    def write_files(self, request: dict) -> None:
        """Write the host's files into the empty workspace; the host checked the paths."""
        for name, text in request["files"].items():
            path = self.workspace / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")


def describe(error: BaseException) -> str:
    """An error in one line, or its type where agent code made even that fail."""
    try:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_ERROR]
    except Exception:
        return type(error).__name__
