"""The offline planner: a request in words -> a specification, without a model or a key.

It recognises the phrases of the tool families and the names of the MCP catalogue in the request. The same request
always gives the same plan.
"""

import json
import random
from collections.abc import Mapping
from typing import NamedTuple

from pydantic import JsonValue

from core.errors import BadData
from core.types import JsonObject
from environments.nat_agent.families import FAMILIES, Family
from environments.nat_agent.inputs import draw
from environments.nat_agent.mcp_registry import catalogue
from environments.nat_agent.more_families import MORE_FAMILIES
from environments.nat_agent.plan import (
    AgentPlan,
    AgentSpec,
    ArgumentRecipe,
    ConfigField,
    HiddenTool,
    PlannedServer,
    PlannedTool,
    Scaffold,
    TestCase,
)
from environments.nat_agent.plan_rules import scaffold_problem
from environments.nat_agent.sources import config_source, evaluate, tool_source, variant_source

ALL_FAMILIES = (*FAMILIES, *MORE_FAMILIES)
SCHEMA_TYPES: dict[str, JsonObject] = {
    "float": {"type": "number"},
    "int": {"type": "integer"},
    "str": {"type": "string"},
    "bool": {"type": "boolean"},
    "list[float]": {"type": "array", "items": {"type": "number"}},
    "list[str]": {"type": "array", "items": {"type": "string"}},
    "dict[str, int]": {"type": "object", "additionalProperties": {"type": "integer"}},
}
SCAFFOLD_PHRASES = {
    "that thinks aloud": Scaffold.REACT,
    "that calls tools natively": Scaffold.TOOL_CALLING,
    "that plans ahead": Scaffold.REWOO,
}
MORE_SCAFFOLD_PHRASES = {
    "that routes each question to one tool": Scaffold.ROUTER,
    "that runs its tools in a row": Scaffold.SEQUENTIAL,
}
ALL_SCAFFOLD_PHRASES = {**SCAFFOLD_PHRASES, **MORE_SCAFFOLD_PHRASES}
EXTRA_MUTANTS = {
    "float": ("({body}) * 2", "({body}) - 1"),
    "int": ("({body}) * 2", "({body}) - 1"),
    "str": ('({body}) + "s"', "({body})[1:]", "({body})[::-1]"),
    "bool": ("bool(not ({body}))",),
    "list[str]": ("({body})[1:]", '({body}) + ["s"]'),
    "dict[str, int]": ("{{key: count + 1 for key, count in ({body}).items()}}",),
}
"""Return type -> how a right expression goes wrong, beside the mistakes of its family."""
MUTANTS_PER_TOOL = 4
MAX_TOOLS = 3
EXAMPLE_TRIES = 200


class FilledTool(NamedTuple):
    """A family with its gaps filled in."""

    family: Family
    values: Mapping[str, str]

    def fill(self, text: str) -> str:
        return text.format(**self.values)

    @property
    def name(self) -> str:
        return self.fill(self.family.name).replace(".", "_")

    @property
    def parameters(self) -> dict[str, str]:
        return {self.fill(name): kind for name, kind in self.family.parameters.items()}

    @property
    def config(self) -> tuple[ConfigField, ...]:
        """The tool's settings, `digits` first where it rounds."""
        digits = ConfigField(name="digits", type="int", default=1 + len(self.name) % 3)
        filled = (
            one.model_copy(update={"default": self.fill(one.default)}) if isinstance(one.default, str) else one
            for one in self.family.settings
        )
        return (*((digits,) if self.family.rounds else ()), *filled)

    @property
    def inputs(self) -> dict[str, ArgumentRecipe]:
        """How hidden inputs are drawn, gaps in names and choices filled in."""
        return {
            self.fill(name): recipe.model_copy(update={"choices": tuple(self.fill(choice) for choice in recipe.choices)})
            for name, recipe in self.family.inputs.items()
        }


def plan_request(request: str, task_id: str = "request") -> AgentSpec:
    """The specification that a request asks for.

    Raises BadData where no tool family or too many are recognised, naming the phrases that would be, and where the
    tools do not go with the scaffold.
    """
    filled = _recognise(request)
    if not 1 <= len(filled) <= MAX_TOOLS:
        known = "; ".join(family.phrase for family in ALL_FAMILIES)
        raise BadData(
            f"request {request[:60]!r}: recognised {len(filled)} tools, expected 1 to {MAX_TOOLS}; `natgym plan --remote` has "
            f"a model plan any request; known phrases: {known}"
        )
    tools, hidden, cases = zip(*(_plan_tool(one) for one in filled), strict=True)
    plan = AgentPlan(
        user_request=request,
        scaffold_type=_scaffold(request),
        scaffold_reasoning="named in the request" if any(p in request for p in ALL_SCAFFOLD_PHRASES) else "the default",
        mcp_servers=_servers(request),
        custom_tools=tools,
        tool_reasoning="; ".join(one.family.key for one in filled),
        test_cases=cases,
        implementation_steps=("write each tool", "test each tool", "configure the workflow"),
    )
    if problem := scaffold_problem(plan):
        raise BadData(f"request {request[:60]!r}: {problem}")
    plan = plan.model_copy(update={"yaml_config_template": config_source(plan)})
    return AgentSpec(task_id=task_id, plan=plan, hidden=hidden)


def _recognise(request: str) -> list[FilledTool]:
    """Tools in the order in which the request names them; a name that stands twice counts once."""
    found: dict[str, tuple[int, FilledTool]] = {}
    for family in ALL_FAMILIES:
        for match in family.pattern.finditer(request):
            values = family.values(match.groupdict())
            if values is not None:
                tool = FilledTool(family, values)
                found.setdefault(tool.name, (match.start(), tool))
    return [tool for _, tool in sorted(found.values(), key=lambda entry: entry[0])]


def _scaffold(request: str) -> Scaffold:
    return next((scaffold for phrase, scaffold in ALL_SCAFFOLD_PHRASES.items() if phrase in request), Scaffold.REACT)


def _servers(request: str) -> tuple[PlannedServer, ...]:
    return tuple(server for server in catalogue() if f"using {server.name}" in request)


def _plan_tool(filled: FilledTool) -> tuple[PlannedTool, HiddenTool, TestCase]:
    reference, *mutants = (filled.fill(body) for body in (filled.family.body, *filled.family.mutants))
    arguments = _telling_example(filled, reference, mutants)
    expected = _answer(filled, reference, arguments)
    tool = PlannedTool(
        name=filled.name,
        purpose=filled.fill(filled.family.purpose),
        input_schema={
            "type": "object",
            "properties": {name: dict(SCHEMA_TYPES[kind]) for name, kind in filled.parameters.items()},
            "required": list(filled.parameters),
        },
        output_schema=SCHEMA_TYPES[filled.family.returns],
        config=filled.config,
        example_usage=f"{filled.name}({', '.join(f'{name}={value!r}' for name, value in arguments.items())}) -> {expected!r}",
    )
    mutants += _more_mutants(filled, reference, arguments)[: MUTANTS_PER_TOOL - len(mutants)]
    written = (filled.parameters, filled.family.returns)
    sources = [tool_source(tool, *written, body, filled.family.imports) for body in (reference, *mutants)]
    hidden = HiddenTool(
        name=filled.name,
        reference=sources[0],
        inputs=filled.inputs,
        mutants=tuple(sources[1:]),
        variants=(variant_source(tool, *written, reference, filled.family.imports),),
    )
    return tool, hidden, TestCase(test_id=filled.name, tool=filled.name, arguments=arguments, expected=expected)


def _telling_example(filled: FilledTool, reference: str, mutants: list[str]) -> JsonObject:
    """Arguments on which every mutant differs from the reference, so that a test of them can tell."""
    chance = random.Random(json.dumps([filled.family.key, sorted(filled.values.items())]))
    for _ in range(EXAMPLE_TRIES):
        arguments = draw(filled.inputs, chance)
        right = _answer(filled, reference, arguments)
        if all(_answer(filled, mutant, arguments) != right for mutant in mutants):
            return arguments
    raise BadData(f"tool {filled.name!r}: no example in {EXAMPLE_TRIES} tells it from its mutants")


def _more_mutants(filled: FilledTool, reference: str, arguments: JsonObject) -> list[str]:
    """Further wrong expressions that the example tells from the right one."""
    right = _answer(filled, reference, arguments)
    wrong = [text.format(body=reference) for text in EXTRA_MUTANTS[filled.family.returns]]
    return [body for body in wrong if _answer(filled, body, arguments) != right]


def _answer(filled: FilledTool, body: str, arguments: JsonObject) -> JsonValue:
    return evaluate(body, arguments, {one.name: one.default for one in filled.config})
