"""Builds the agent's real workflow, with its own tools and real MCP servers, and runs it on the host's questions."""

from pathlib import Path

from runtime.frames import Channel
from runtime.gym_llm import use_gym_llm


async def run_workflow(request: dict, channel: Channel) -> dict:
    """The workflow's answer to each question; the host plays the LLM in between."""
    from nat.builder.context import ContextState
    from nat.builder.workflow import Workflow
    from nat.builder.workflow_builder import WorkflowBuilder

    config = compose(Path("agent_config.yml"), channel)
    answers = []
    async with WorkflowBuilder.from_config(config) as builder:
        # builder.build() would validate the whole Config once more
        workflow = Workflow.from_entry_fn(config=config, entry_fn=builder.get_workflow(), context_state=ContextState.get())
        for question in request["questions"]:
            async with workflow.run(question) as runner:
                answers.append(str(await runner.result(to_type=str)))
    return {"answers": answers}


def compose(path: Path, channel: Channel) -> object:
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
        llms=use_gym_llm(data.get("llms", {}), channel),
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
