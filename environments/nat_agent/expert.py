"""A scripted expert that builds the planned agent, and makes the mistakes that real models make on NAT.

Its completions are text as a hermes-format model writes it, one a turn. With no mistakes they are the gold
answer of a task; with the mix of `MISTAKE_RATES` they are what the small policy is warm-started on, so that it is
able to do everything right but does not do so reliably.
"""

import json
import random
from collections.abc import Iterator, Mapping
from enum import StrEnum

from environments.nat_agent.plan import AgentPlan, AgentSpec, HiddenTool, TestCase
from environments.nat_agent.sources import config_class, config_source, setup_source, suite_source


class Mistake(StrEnum):
    """What goes wrong in a demonstration; the first group once per agent, the second once per tool."""

    INVENTED_YAML = "invented_yaml"
    """`llm: / agent: / tools:` instead of NAT's own sections."""
    TOOL_LEFT_OUT = "tool_left_out"
    DANGLING_NAME = "dangling_name"
    WRONG_CLIENT = "wrong_client"
    """setup_mcp.sh registers the server with another program, where NAT never looks."""
    EXTRA_TURN = "extra_turn"

    NO_DESCRIPTION = "no_description"
    PARTIAL_HINTS = "partial_hints"
    NOT_REGISTERED = "not_registered"
    RETURN_FOR_YIELD = "return_for_yield"
    SETTING_IGNORED = "setting_ignored"
    WRONG_PATH = "wrong_path"
    EMPTY_TEST = "empty_test"


MISTAKE_RATES: Mapping[Mistake, float] = {
    Mistake.INVENTED_YAML: 0.08,
    Mistake.TOOL_LEFT_OUT: 0.07,
    Mistake.DANGLING_NAME: 0.05,
    Mistake.WRONG_CLIENT: 0.15,
    Mistake.EXTRA_TURN: 0.50,
    Mistake.NO_DESCRIPTION: 0.045,
    Mistake.PARTIAL_HINTS: 0.035,
    Mistake.NOT_REGISTERED: 0.03,
    Mistake.RETURN_FOR_YIELD: 0.035,
    Mistake.SETTING_IGNORED: 0.05,
    Mistake.WRONG_PATH: 0.035,
    Mistake.EMPTY_TEST: 0.05,
}
"""The mix of the warm start; every rate is the chance per agent or per tool."""

TOGETHER_RATE = 0.3
"""How often a demonstration writes a tool and its test in one turn instead of two."""

TESTED_RATE = 0.3
"""How often the needless turn of a demonstration runs the tests."""

TESTS_FAIL = frozenset(
    {Mistake.NO_DESCRIPTION, Mistake.PARTIAL_HINTS, Mistake.NOT_REGISTERED, Mistake.RETURN_FOR_YIELD, Mistake.SETTING_IGNORED,
     Mistake.WRONG_PATH}
)  # fmt: skip
"""Demonstrations with these never run the tests: the expert does not see them fail and go on regardless."""


class Expert:
    """Plays one specification. `rates` empty: the gold answer."""

    def __init__(self, spec: AgentSpec, *, rates: Mapping[Mistake, float] | None = None, seed: int = 0) -> None:
        self._spec = spec
        self._plan: AgentPlan = spec.plan
        self._rates = rates or {}
        self._chance = random.Random(f"{spec.task_id}-{seed}")
        self.mistakes: list[Mistake] = []

    def completions(self) -> list[str]:
        """What the expert says, turn by turn; the last turn hands the agent in."""
        turns: list[str] = []
        cases = {case.tool: case for case in self._plan.test_cases}
        for hidden in self._spec.hidden:
            source, test = self._tool_call(hidden), self._test_call(cases[hidden.name], config_class(hidden.reference))
            together = not self._rates or self._chance.random() < TOGETHER_RATE
            turns += [f"{source}\n{test}"] if together else [source, test]
        turns.append(call("write_file", path="agent_config.yml", content=self._config()))
        if self._plan.mcp_servers:
            turns.append(call("write_file", path="setup_mcp.sh", content=self._setup()))
        turns += self._needless()
        return [*turns, call("finish")]

    def _errs(self, mistake: Mistake) -> bool:
        if self._chance.random() >= self._rates.get(mistake, 0.0):
            return False
        self.mistakes.append(mistake)
        return True

    def _tool_call(self, hidden: HiddenTool) -> str:
        source = hidden.reference
        for mistake in (Mistake.NO_DESCRIPTION, Mistake.SETTING_IGNORED, Mistake.NOT_REGISTERED, Mistake.PARTIAL_HINTS,
                        Mistake.RETURN_FOR_YIELD):  # fmt: skip
            if self._errs(mistake):
                source = spoil(source, mistake)
        folder = "tools" if self._errs(Mistake.WRONG_PATH) else "nat_tools"
        return call("write_file", path=f"{folder}/{hidden.name}.py", content=source)

    def _test_call(self, case: TestCase, config: str) -> str:
        source = suite_source(case, config)
        if self._errs(Mistake.EMPTY_TEST):
            source = source[: source.index("        assert")] + "        assert tool is not None\n"
        return call("write_file", path=f"tests/test_{case.tool}.py", content=source)

    def _config(self) -> str:
        names = [*self._plan.existing_tools, *(one.name for one in (*self._plan.custom_tools, *self._plan.mcp_servers))]
        if self._errs(Mistake.INVENTED_YAML):
            return f"llm:\n  model: mistral-large\nagent:\n  type: {self._plan.scaffold_type}\ntools: [{', '.join(names)}]\n"
        if len(names) > 1 and self._errs(Mistake.TOOL_LEFT_OUT):
            names.pop(self._chance.randrange(len(names)))
        elif self._errs(Mistake.DANGLING_NAME):
            names[-1] += "_tool"
        return config_source(self._plan, names)

    def _setup(self) -> str:
        if self._errs(Mistake.WRONG_CLIENT):
            package = self._plan.mcp_servers[0].package
            return f"#!/usr/bin/env bash\nset -euo pipefail\nnpx smithery install {package} --client claude\n"
        return setup_source(self._plan.mcp_servers)

    def _needless(self) -> Iterator[str]:
        """Turns that a careful agent can do without."""
        if self._errs(Mistake.EXTRA_TURN):
            checks = self._chance.random() < TESTED_RATE and TESTS_FAIL.isdisjoint(self.mistakes)
            yield call("run_tests") if checks else call("bash", command="ls nat_tools")


def spoil(source: str, mistake: Mistake) -> str:
    """A tool's source with one mistake in it; unchanged where the mistake cannot be made there."""
    match mistake:
        case Mistake.NO_DESCRIPTION:
            lines = source.splitlines(keepends=True)
            kept = [line for line in lines if not line.startswith("    description:")]
            text = "".join(kept)
            return text if "    digits" in text else text.replace('"):\n\n\n', '"):\n    pass\n\n\n')
        case Mistake.SETTING_IGNORED:
            return source.replace("config.digits", "2")
        case Mistake.NOT_REGISTERED:
            return source.replace("@register_function(config_type=ToolConfig)\n", "")
        case Mistake.PARTIAL_HINTS:
            head, _, rest = source.partition("    async def run(")
            parameters, _, body = rest.partition("):\n") if ") ->" not in rest else rest.partition(") -> ")
            return f"{head}    async def run({parameters}):\n{body.partition(chr(10))[2]}"
        case Mistake.RETURN_FOR_YIELD:
            return source.replace("    yield FunctionInfo", "    return FunctionInfo")
        case _:
            return source


def call(name: str, **arguments: str) -> str:
    """One tool call as hermes-format text."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"
