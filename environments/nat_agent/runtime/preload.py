"""Import NAT once, so that a fork starts with everything that an evaluation needs.

Nothing here may start a thread or an event loop: a fork would inherit half of it.
"""

import gc
import importlib
import logging
import sys

MODULES = (
    "nat.plugin_api",
    "nat.runtime.loader",
    "nat.runtime.session",
    "nat.builder.workflow_builder",
    "nat.llm.register",
    "nat.tool.register",
    "nat.middleware.register",
    "nat.embedder.register",
    "nat.retriever.register",
    "nat.observability.register",
    "nat.authentication.register",
    "nat.object_store.register",
    "nat.front_ends.register",
    "nat.experimental.test_time_compute.register",
    "nat.plugins.langchain.register",
    "nat.plugins.langchain.tools.register",
    "nat.plugins.mcp.register",
    "nat.plugins.mcp.client.client_impl",
    "nat.plugins.mcp.auth.register",
    "nat.plugins.langchain.agent.react_agent.agent",
    "nat.plugins.langchain.agent.tool_calling_agent.agent",
    "nat.plugins.langchain.agent.rewoo_agent.agent",
    "langgraph.graph.state",
    "langchain_core.runnables.configurable",
    "langchain_core.tools.structured",
    "mcp.client.stdio",
    "nat.test",
    "yaml",
    "pytest",
    "pytest_asyncio.plugin",
    "_pytest.assertion.rewrite",
    "_pytest.junitxml",
    "uuid",
)
# Correct agents name none of these, and each one makes every rebuild of NAT's Config slower.
PRUNED = (
    "_registered_evaluator_infos",
    "_registered_dataset_loader_infos",
    "_registered_ttc_strategies",
    "_registered_optimizer_infos",
)


def import_nat() -> str:
    """Import and register everything; the version of NAT."""
    from importlib.metadata import version

    sys.dont_write_bytecode = True
    logging.disable(logging.CRITICAL)
    from nat.cli.type_registry import GlobalTypeRegistry

    registry = GlobalTypeRegistry.get()
    with registry.pause_registration_changed_hooks():
        for name in MODULES:
            importlib.import_module(name)
        for table in PRUNED:
            getattr(registry, table).clear()
    registry._registration_changed_hooks[:] = [config_is_stale]
    return version("nvidia-nat-core")


def config_is_stale() -> None:
    """NAT rebuilds its Config model, 30 ms, at every registration; here it does so when the model is used next."""
    from nat.data_models.config import Config
    from pydantic._internal._mock_val_ser import MockValSer

    def rebuild() -> object:
        Config.rebuild_annotations()
        return Config.__pydantic_validator__

    Config.__pydantic_validator__ = MockValSer(
        "stale", code="class-not-fully-defined", val_or_ser="validator", attempt_rebuild=rebuild
    )


def settle() -> None:
    """Move what was imported out of the collector's sight, so that forks share its pages."""
    gc.collect()
    gc.disable()
    gc.freeze()
