"""Plays small agents of our own in the template, once, so that what Python and its libraries work out at a first use is
there in every fork: specialised bytecode, compiled patterns, caches of types.

Nothing of it stays: no type, no module, no file, no thread. Policies' code is not near yet.
"""

import asyncio
import gc
import importlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runtime.child import Evaluation
from runtime.suite import Suite
from runtime.trusted_config import TABLES, types_by_name

TOOL = """from nat.plugin_api import Builder, FunctionBaseConfig, FunctionInfo, register_function
from pydantic import Field


class ToolConfig(FunctionBaseConfig, name="{name}"):
    description: str = Field(default="{name}", description="what it does")
    digits: int = 2


@register_function(config_type=ToolConfig)
async def build(config: ToolConfig, builder: Builder):
    async def run({argument}: {kind}, times: int = 1) -> {kind}:
        return {argument} * times

    yield FunctionInfo.from_fn(run, description=config.description)
"""
TEST = """import pytest
from nat.builder.workflow_builder import WorkflowBuilder

from nat_tools.{name} import ToolConfig


@pytest.mark.asyncio
async def test_right():
    async with WorkflowBuilder() as builder:
        tool = await builder.add_function("tool", ToolConfig())
        assert await tool.acall_invoke({argument}={value}) == {value}


@pytest.mark.asyncio
async def test_wrong():
    async with WorkflowBuilder() as builder:
        tool = await builder.add_function("tool", ToolConfig())
        assert await tool.acall_invoke({argument}={value}, times=2) == {value}
"""
CONFIG = """functions:
  rehearse_text:
    _type: rehearse_text
  rehearse_number:
    _type: rehearse_number
    digits: 3
llms:
  main:
    _type: nim
    model_name: meta/llama-3.1-70b-instruct
workflow:
  _type: {scaffold}
  llm_name: main
  tool_names: [rehearse_text, rehearse_number]
"""
TOOLS = (
    {"name": "rehearse_text", "argument": "text", "kind": "str", "value": "'a'"},
    {"name": "rehearse_number", "argument": "number", "kind": "float", "value": "1.5"},
)
CALLS = (("rehearse_text", {"text": "a"}), ("rehearse_number", {"number": 1.5}))


def said(content: str, *calls: dict) -> dict:
    return {"content": content, "tool_calls": list(calls)}


SCRIPTS = {
    "react_agent": (
        *(said(f"Thought: t\nAction: {name}\nAction Input: {json.dumps(arguments)}") for name, arguments in CALLS),
        said("Thought: t\nFinal Answer: done"),
    ),
    "tool_calling_agent": (
        *(said("", {"name": name, "args": arguments, "id": name}) for name, arguments in CALLS),
        said("done"),
    ),
    "rewoo_agent": (
        said(
            json.dumps(
                [
                    {"plan": "p", "evidence": {"placeholder": f"#E{number}", "tool": name, "tool_input": arguments}}
                    for number, (name, arguments) in enumerate(CALLS, start=1)
                ]
            )
        ),
        said("done"),
    ),
}
"""What the LLM says to a workflow of each kind."""


class Prompter:
    """Stands where the host is: asks what it was given, in order."""

    def __init__(self, requests: list[dict]) -> None:
        self._requests = requests

    def receive(self) -> dict:
        if not self._requests:
            raise EOFError
        return self._requests.pop(0)

    def send(self, message: dict) -> None:
        if "error" in message:
            raise RuntimeError(f"the rehearsal failed: {message['error']}")
        json.dumps(message)

    def ask(self, message: dict) -> dict:
        self.send(message)
        return self.receive()


def rehearse(workspace: Path) -> None:
    """Play an agent of each kind in the empty `workspace`, and its tests. Raises RuntimeError where one does not work."""
    types_by_name()
    for scaffold, script in SCRIPTS.items():
        config = CONFIG.format(scaffold=scaffold)
        play(workspace, [*beginning(config), {"do": "workflow", "questions": ["a question"]}, *script, {"do": "tests"}])
        play(workspace, [{"do": "config", "text": config, "tools": {tool["name"]: SETTINGS for tool in TOOLS}, "servers": {}}])
    for _ in range(2):
        play(workspace, [*beginning(CONFIG), {"do": "tests"}])
    gc.collect()
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208 - one listing
        raise RuntimeError("the rehearsal left a thread behind")


SETTINGS = {"properties": {"description": {"type": "string"}, "digits": {"type": "integer"}}}


def beginning(config: str) -> list[dict]:
    files = {f"nat_tools/{tool['name']}.py": TOOL.format(**tool) for tool in TOOLS}
    files |= {f"tests/test_{tool['name']}.py": TEST.format(**tool) for tool in TOOLS}
    calls = [{"do": "call", "tool": name, "config": {}, "arguments": arguments} for name, arguments in CALLS]
    loaded = {"do": "load", "names": [tool["name"] for tool in TOOLS]}
    return [{"do": "files", "files": {**files, "agent_config.yml": config}}, loaded, *(3 * calls)]


def play(workspace: Path, requests: list[dict]) -> None:
    """One evaluation, as a child does it."""
    prompter = Prompter(requests)
    with as_it_was(workspace):
        suite = Suite(workspace)
        evaluation = Evaluation(prompter, workspace, {False: suite})
        asyncio.set_event_loop(evaluation.loop)
        sys.path.append(str(workspace))
        with suppress(EOFError):
            evaluation.answer_all()
        evaluation.end()
        suite.end()
        asyncio.set_event_loop(None)


@contextmanager
def as_it_was(workspace: Path) -> Iterator[None]:
    """Afterwards modules, types and folders are those that there were before."""
    from nat.cli.type_registry import GlobalTypeRegistry
    from nat.plugins.langchain.agent import base

    registry = GlobalTypeRegistry.get()
    tables = {name: (table := getattr(registry, name), dict(table)) for name in TABLES}
    modules, path, finders, waiting = set(sys.modules), list(sys.path), list(sys.meta_path), base.asyncio
    yield
    for name, (table, entries) in tables.items():
        table.clear()
        table.update(entries)
        setattr(registry, name, table)
    registry._registration_changed()
    for name in set(sys.modules) - modules:
        if name.startswith(("nat_tools", "tests", "test_")):
            del sys.modules[name]
    sys.path[:], sys.meta_path[:], base.asyncio = path, finders, waiting
    for place in [place for place in sys.path_importer_cache if place.startswith(str(workspace))]:
        del sys.path_importer_cache[place]
    importlib.invalidate_caches()
    for entry in workspace.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
