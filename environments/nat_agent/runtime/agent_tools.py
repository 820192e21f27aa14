"""Imports nat_tools modules, builds their functions through NAT and calls them."""

import importlib
import json
from collections.abc import Callable

MAX_ERROR = 300


class AgentTools:
    """The tools of one workspace. `run` executes a coroutine on the evaluation's event loop."""

    def __init__(self, run: Callable) -> None:
        self._run = run
        self._configs: dict[str, type] = {}
        self._built: dict[str, object] = {}
        self._builder = None

    def load(self, names: list[str]) -> dict:
        """What each module `nat_tools.<name>` registers: name -> report. A broken one has an `error` and its stage."""
        return {name: self._load_one(name) for name in names}

    def _load_one(self, name: str) -> dict:
        report: dict = {"stage": "import"}
        try:
            importlib.import_module(f"nat_tools.{name}")
            report["stage"] = "register"
            self._configs[name] = config = self._registered(name)
            report["stage"] = "config"
            report["config_schema"] = config.model_json_schema()
            report["stage"] = "build"
            function = self._function(name, {})
            report["stage"] = "schema"
            report["description"] = function.description
            report["input_schema"] = function.input_schema.model_json_schema()
            json.dumps(report)
        except BaseException as error:
            return {"stage": report["stage"], "error": one_line(error)}
        return {**report, "stage": "ready"}

    def _registered(self, name: str) -> type:
        from nat.cli.type_registry import GlobalTypeRegistry

        found = [info.config_type for info in GlobalTypeRegistry.get().get_registered_functions()]
        ours = [config for config in found if config.__module__ == f"nat_tools.{name}"]
        for config in ours:
            if config.static_type() == name:
                return config
        names = [str(config.static_type()) for config in ours]
        raise LookupError(f"nat_tools/{name}.py registers {', '.join(names) or 'nothing'}, not {name}")

    def _function(self, name: str, settings: dict) -> object:
        key = json.dumps([name, settings], sort_keys=True)
        if key not in self._built:
            self._built[key] = self._run(self._build(name, settings, f"f{len(self._built)}"))
        return self._built[key]

    async def _build(self, name: str, settings: dict, instance: str) -> object:
        from nat.builder.workflow_builder import WorkflowBuilder

        if self._builder is None:
            self._builder = await WorkflowBuilder().__aenter__()
        return await self._builder.add_function(instance, self._configs[name](**settings))

    def end(self) -> None:
        """Let go of what was built."""
        if self._builder is not None:
            self._run(self._builder.__aexit__(None, None, None))

    def call(self, request: dict) -> dict:
        """The value that a tool returns for `arguments` when its Config is made from `config`."""
        function = self._function(request["tool"], request["config"])
        value = self._run(function.acall_invoke(**request["arguments"]))
        if type(value) not in (str, int, float, bool, type(None), list, dict) and hasattr(value, "model_dump"):
            value = value.model_dump(mode="json")
        return {"value": value}


def one_line(error: BaseException) -> str:
    """An error without line breaks, with the line of the agent's file where it came from."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_ERROR]
    line, trace = 0, error.__traceback__
    while trace is not None:
        if "/nat_tools/" in trace.tb_frame.f_code.co_filename:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{text} (line {line})" if line else text
