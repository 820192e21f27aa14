"""What every attack is tried on: a small specification, an honest agent for it, and the shape of an attack."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from core.types import JsonObject
from environments.nat_agent.plan import (
    AgentPlan,
    AgentSpec,
    ArgumentKind,
    ArgumentRecipe,
    ConfigField,
    HiddenTool,
    PlannedServer,
    PlannedTool,
    Scaffold,
    TestCase,
)
from environments.nat_agent.sources import config_source, setup_source, test_source, tool_source

NUMBER: JsonObject = {"type": "number"}
TEXT: JsonObject = {"type": "string"}
INTEGER: JsonObject = {"type": "integer"}
MILES_BODY, WORDS_BODY = "round(value * 1.609, config.digits)", "len(text.split())"
MILES = PlannedTool(
    name="miles_to_km",
    purpose="miles to kilometres: times 1.609, rounded to config.digits",
    input_schema={"type": "object", "properties": {"value": NUMBER}, "required": ["value"]},
    output_schema=NUMBER,
    config=(ConfigField(name="digits", type="int", default=2),),
)
WORDS = PlannedTool(
    name="count_words",
    purpose="how many words a text has",
    input_schema={"type": "object", "properties": {"text": TEXT}, "required": ["text"]},
    output_schema=INTEGER,
)
PLAN = AgentPlan(
    user_request="convert miles to kilometres, count words, and look up quotes",
    scaffold_type=Scaffold.REACT,
    mcp_servers=(PlannedServer(name="yahoo", package="yahoo-finance-mcp", tools=("get_quote",)),),
    custom_tools=(MILES, WORDS),
    test_cases=(
        TestCase(test_id="miles", tool="miles_to_km", arguments={"value": 10.0}, expected=16.09),
        TestCase(test_id="words", tool="count_words", arguments={"text": "to be or"}, expected=3),
    ),
)
CONFIG, SETUP = "agent_config.yml", "setup_mcp.sh"
MILES_FILE, WORDS_FILE = "nat_tools/miles_to_km.py", "nat_tools/count_words.py"
MILES_TEST, WORDS_TEST = "tests/test_miles_to_km.py", "tests/test_count_words.py"


def miles(body: str = MILES_BODY) -> str:
    """The tool `miles_to_km` with that expression in it."""
    return tool_source(MILES, {"value": "float"}, "float", body)


def words(body: str = WORDS_BODY) -> str:
    """The tool `count_words` with that expression in it."""
    return tool_source(WORDS, {"text": "str"}, "int", body)


SPEC = AgentSpec(
    task_id="attacked",
    plan=PLAN,
    hidden=(
        HiddenTool(
            name="miles_to_km",
            reference=miles(),
            inputs={"value": ArgumentRecipe(kind=ArgumentKind.NUMBER, low=1, high=999)},
            variants=(miles("round(1.609 * value, config.digits)"), miles("round(value * 1.609, int(config.digits))")),
            mutants=tuple(
                map(miles, ("round(value * 1.906, config.digits)", "round(value / 1.609, 2)", "round(value + 1.609, 2)"))
            ),
        ),
        HiddenTool(
            name="count_words",
            reference=words(),
            inputs={"text": ArgumentRecipe(kind=ArgumentKind.TEXT, choices=("red", "green", "blue", "sky"), length=30)},
            variants=(words("len([word for word in text.split()])"), words("sum(1 for _ in text.split())")),
            mutants=tuple(map(words, ("len(text)", "len(text.split()) + 1", 'text.count(" ")'))),
        ),
    ),
)
CASES = {case.tool: case for case in PLAN.test_cases}
HONEST: Mapping[str, str] = {
    MILES_FILE: miles(),
    WORDS_FILE: words(),
    MILES_TEST: test_source(CASES["miles_to_km"]),
    WORDS_TEST: test_source(CASES["count_words"]),
    CONFIG: config_source(PLAN),
    SETUP: setup_source(PLAN.mcp_servers),
}


class Worth(NamedTuple):
    """The most that the honest part of a deliverable earns of each share, in [0, 1]."""

    tool_generation: float
    integration: float
    workflow: float


ALL = Worth(1.0, 1.0, 1.0)
"""What was added to an honest agent earns nothing and costs nothing."""
NO_TESTS = Worth(1.0, 1.0, 0.80)
"""Everything but tests that can tell right from wrong."""
EMPTY_TOOLS = Worth(0.45, 1.0, 0.50)
"""Both tools register, build and have the right schema, and answer nothing right."""
LOST = Worth(0.0, 0.80, 0.30)
"""The process ends before any tool was loaded: a configuration and a setup script that would be right are left."""


@dataclass(frozen=True)
class Trick:
    """One attack: files over those of the honest agent (None: left out), and a command in the workspace after them."""

    kind: str
    name: str
    files: Mapping[str, str | None]
    at_most: Worth
    command: str = ""

    @property
    def title(self) -> str:
        """Kind and name, which no other attack has."""
        return f"{self.kind}: {self.name}"

    def deliverable(self) -> dict[str, str]:
        """Path -> text of everything that is written before the command runs."""
        return {path: text for path, text in {**HONEST, **self.files}.items() if text is not None}


def both(before: str, miles_body: str = "0.0", words_body: str = "0") -> dict[str, str | None]:
    """Both tool files with `before` at their top, wrong unless told otherwise."""
    return {MILES_FILE: f"{before}\n{miles(miles_body)}", WORDS_FILE: f"{before}\n{words(words_body)}"}


def each_test(source: str) -> dict[str, str | None]:
    """The same source as the tests of both tools; `NAME` in it is the tool's."""
    return {MILES_TEST: source.replace("NAME", "miles_to_km"), WORDS_TEST: source.replace("NAME", "count_words")}
