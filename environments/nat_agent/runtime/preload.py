"""Import NAT once, so that a fork starts with everything that an evaluation needs.

Nothing here may start a thread or an event loop: a fork would inherit half of it.
"""

import contextlib
import functools
import gc
import importlib
import inspect
import logging
import sys
from collections.abc import Callable

from runtime import pages

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
    "_pytest._argcomplete",
    "_pytest.assertion.rewrite",
    "_pytest.helpconfig",
    "_pytest.pastebin",
    "_pytest.setuponly",
    "_pytest.setupplan",
    "_pytest.skipping",
    "_pytest.unittest",
    "pdb",
    "readline",
    "nat.builder.per_user_workflow_builder",
    "nat.plugins.langchain.agent.rewoo_agent.prompt",
    "nat.plugins.langchain.agent.react_agent.prompt",
    "langchain_core.messages.block_translators.langchain_v0",
    "langchain_core.tracers.context",
    "langchain_core.tracers.run_collector",
    "langchain_core.tracers.stdout",
    "uuid",
    "anyio._backends._asyncio",
    "anyio._core._resources",
    "anyio._core._subprocesses",
    "anyio.streams.stapled",
    "anyio.streams.tls",
)
# Correct agents name none of these, and each one makes every rebuild of NAT's Config slower.
GRAPHS = tuple(f"nat.plugins.langchain.agent.{name}.agent" for name in ("react_agent", "tool_calling_agent", "rewoo_agent"))
SMALL_OBJECTS_MIB = 128
KEPT: list[object] = []
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
    held = pages.reserve(SMALL_OBJECTS_MIB)
    logging.disable(logging.CRITICAL)
    from nat.cli.type_registry import GlobalTypeRegistry
    from nat.data_models.config import Config

    registry = GlobalTypeRegistry.get()
    with registry.pause_registration_changed_hooks():
        for name in MODULES:
            importlib.import_module(name)
        for table in PRUNED:
            getattr(registry, table).clear()
    remember()
    Config.rebuild_annotations()
    registry._registration_changed_hooks[:] = [config_is_stale]
    held.clear()
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


def remember() -> None:
    """Keep the answers to three questions that a fork would ask anew for every model and every agent that it builds."""
    from langgraph.pregel import _utils
    from nat.cli.type_registry import TypeRegistry

    # inspect copies sys.modules to read a builtin's signature, which pydantic wants for each model with a
    # default_factory; in a fork that copy makes the kernel duplicate a page for each of three thousand modules
    inspect._signature_fromstr = functools.lru_cache(inspect._signature_fromstr)
    for builtin in (list, dict, set, tuple, frozenset):
        with contextlib.suppress(ValueError):
            inspect.signature(builtin)
    TypeRegistry._do_compute_annotation = _by_registrations(TypeRegistry._do_compute_annotation)
    _utils.get_function_nonlocals = _by_function(_utils.get_function_nonlocals)
    for module in GRAPHS:
        for kind in vars(importlib.import_module(module)).values():
            if inspect.isclass(kind) and kind.__module__ == module:
                for function in filter(inspect.isfunction, vars(kind).values()):
                    _utils.get_function_nonlocals(function)


def _by_registrations(compute: Callable) -> Callable:
    """NAT's union of all types of a component, kept for as long as the same types are registered."""
    known: dict[tuple, object] = {}

    def remembered(self, component: type, registrations: list) -> object:
        key = (component, *((info.full_type, info.config_type) for info in registrations))
        if key not in known:
            known[key] = compute(self, component, registrations)
        return known[key]

    return remembered


def _by_function(find: Callable) -> Callable:
    """What a function reaches from outside its scope, kept for functions without a closure of the preloaded graphs."""
    known: dict[object, list] = {}

    def remembered(function: Callable) -> list:
        plain = getattr(function, "__func__", function)
        if getattr(plain, "__module__", None) not in GRAPHS or plain.__closure__:
            return find(function)
        if plain not in known:
            known[plain] = find(function)
        return list(known[plain])

    return remembered


def settle() -> None:
    """Move what was imported out of the collector's sight and into large pages, so that forks share it cheaply."""
    from nat.data_models.config import Config

    # a fork that makes a new schema lets go of the old one: it would write all over that, only to free it
    KEPT.extend((Config.__pydantic_core_schema__, Config.__pydantic_validator__, Config.__pydantic_serializer__))
    gc.collect()
    gc.disable()
    gc.freeze()
    pages.gather()
