"""Numbers below zero, lists and booleans reach an environment from every command that plays it."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from core.config import Config
from core.settings import child_environ
from services.cli import COMMANDS, OneLineParser
from services.run_file import run_file
from tests.services.small_policy import ROOT

FLAGS = ["--env.number", "-3.5", "--env.names", "[a,b]", "--env.numbers=[-1,2]", "--env.switch", "--env.off", "False"]
READ = {"number": -3.5, "names": ["a", "b"], "numbers": [-1, 2], "switch": True, "off": False}
MODULE = """
from collections.abc import Sequence

from core.config import Config
from core.types import Message, Reward, Role, Task, Turn
from environments.base import Environment, Split, Tool
from environments.program import become
from environments.tool_context import ToolContext


class FlagsConfig(Config):
    number: float = 0
    names: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    switch: bool = False
    off: bool = True


class Flags(Environment):
    name = "flags"
    config_type = FlagsConfig

    def __init__(self, config: FlagsConfig) -> None:
        self._config = config

    def tasks(self, split: Split) -> Sequence[Task]:
        asked = Message(role=Role.USER, content=self._config.model_dump_json())
        return [Task(id="flags", environment=self.name, messages=(asked,))]

    def tools(self, task: Task) -> Sequence[Tool]:
        return ()

    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        return Reward.of(done=1.0)

    def gold(self, task: Task) -> Sequence[str]:
        return ("done",)


if __name__ == "__main__":
    become("flags:Flags")
"""


class Part(Config):
    number: float = 0
    names: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    switch: bool = False
    off: bool = True


@pytest.mark.parametrize(
    "line", [["serve", "env", "x"], ["process", "x", "--out", "f"], ["evaluate", "x"]], ids=lambda line: line[0]
)
def test_every_command_reads_them(line: list[str]):
    parser = OneLineParser(prog="natgym", allow_abbrev=False)
    import_module(COMMANDS[line[0]].module).configure(parser)
    parsed = parser.parse([*line[1:], *FLAGS])
    assert run_file(parsed).section("env", Part).model_dump(mode="json") == READ


def test_an_environment_that_is_its_own_program_reads_them(tmp_path: Path):
    (tmp_path / "flags.py").write_text(MODULE, encoding="utf-8")
    out = tmp_path / "rows.jsonl"
    told = ["process", "--out", str(out), "--format", "openai", "--groups", "1", "--group-size", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "flags", *told, "--rollouts.backend", "unsafe-local", *FLAGS],
        cwd=tmp_path,
        env=child_environ(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(json.loads(out.read_text("utf-8"))["messages"][0]["content"]) == READ
