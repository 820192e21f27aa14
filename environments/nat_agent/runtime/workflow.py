"""Builds the agent's real workflow, with its own tools and real MCP servers, and runs it on the host's questions."""

import asyncio
import typing
from pathlib import Path
from types import SimpleNamespace

from runtime.frames import Channel
from runtime.gym_llm import Line, use_gym_llm
from runtime.mcp_relay import relayed
from runtime.setup_script import SOCKET

MAX_ERROR = 300
NO_TEXT = (int, float, bool, list, dict, typing.Any)
"""Output types for which NAT has no conversion to text."""


async def run_workflow(request: dict, channel: Channel) -> dict:
    """For each question the workflow's answer, or the error that it ended with; the host plays the LLM in between.

    One workflow answers all of them, one after the other, as in one session.
    """
    from nat.builder.context import ContextState
    from nat.builder.workflow import Workflow
    from nat.builder.workflow_builder import WorkflowBuilder

    retry_at_once()
    line = Line(channel)
    config = compose(Path("agent_config.yml"), line)
    answers = []
    async with relayed(channel, Path(".world") / SOCKET), WorkflowBuilder.from_config(config) as builder:
        entry = builder.get_workflow()
        output = entry.single_output_type
        # builder.build() would validate the whole Config once more
        workflow = Workflow.from_entry_fn(config=config, entry_fn=entry, context_state=ContextState.get())
        for line.run, question in enumerate(request["questions"]):
            try:
                async with workflow.run(question) as runner:
                    kind = None if (typing.get_origin(output) or output) in NO_TEXT else str
                    answers.append({"answer": str(await runner.result(to_type=kind))})
            except Exception as error:
                answers.append({"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_ERROR]})
    return {"answers": answers}


def retry_at_once() -> None:
    """NAT's agents wait 2, 4 ... seconds before they try a failed tool again; nothing in here gets better by waiting."""
    from nat.plugins.langchain.agent import base

    base.asyncio = SimpleNamespace(sleep=lambda _: asyncio.sleep(0))


def compose(path: Path, line: Line) -> object:
    """The configuration from its parts, each checked by its own model.

    The whole was validated elsewhere, without agent code; validating it here again would only cost a rebuild of NAT's Config.
    """
    from nat.cli.type_registry import GlobalTypeRegistry
    from nat.data_models.config import Config
    from nat.utils.io.yaml_tools import yaml_load

    registry = GlobalTypeRegistry.get()
    data = yaml_load(path)
    functions = by_name(registry.get_registered_functions())
    groups = by_name(registry.get_registered_function_groups())
    return Config.model_construct(
        functions={name: component(functions, block) for name, block in data.get("functions", {}).items()},
        function_groups={name: component(groups, block) for name, block in data.get("function_groups", {}).items()},
        llms=use_gym_llm(data.get("llms", {}), line),
        workflow=component(functions, data["workflow"]),
    )


def by_name(registrations: list) -> dict[str, type]:
    """Config types by full and by short name; a short name that two of them have is left out, as NAT does."""
    table: dict[str, type] = {}
    shared = set()
    for info in registrations:
        shared |= {info.local_name} & set(table)
        table[info.full_type] = table[info.local_name] = info.config_type
    return {name: kind for name, kind in table.items() if name not in shared}


def component(table: dict[str, type], block: dict) -> object:
    name = block.get("_type", block.get("type"))
    return table[name].model_validate({key: value for key, value in block.items() if key not in ("_type", "type")})
