"""Whole deliverables, on the real NAT."""

import pytest

from environments.nat_agent.evaluator import NatEvaluator
from environments.nat_agent.plan import Scaffold
from tests.environments.nat_agent.agents import TEST, config, gold, miles, shout, spec

pytestmark = [pytest.mark.nat, pytest.mark.asyncio(loop_scope="session")]

LONG_IMPORTS = """from nat.builder.builder import Builder
from nat.builder.function_info import FunctionInfo
from nat.cli.register_workflow import register_function
from nat.data_models.function import FunctionBaseConfig
"""
SHORT_IMPORT = "from nat.plugin_api import Builder, FunctionBaseConfig, FunctionInfo, register_function\n"


@pytest.mark.parametrize("server", [False, True])
@pytest.mark.parametrize("scaffold", [Scaffold.REACT, Scaffold.TOOL_CALLING, Scaffold.REWOO])
async def test_a_perfect_agent_is_complete(evaluator: NatEvaluator, scaffold: Scaffold, server: bool):
    evaluation = await evaluator.evaluate(spec(scaffold, server=server), gold(scaffold, server=server))
    assert evaluation.problems == ()
    assert evaluation.complete
    assert set(evaluation.parts.values()) == {1.0}


async def test_another_correct_program_is_complete(evaluator: NatEvaluator):
    files = gold()
    files["nat_tools/miles_to_km.py"] = files["nat_tools/miles_to_km.py"].replace(SHORT_IMPORT, LONG_IMPORTS)
    files["nat_tools/shout.py"] = shout('"".join(letter.upper() for letter in text) + chr(33)')
    files["agent_config.yml"] = (
        config().replace("functions: {miles_to_km:", "functions: {convert:").replace("[miles_to_km", "[convert")
    )
    assert (await evaluator.evaluate(spec(), files)).complete


async def test_files_at_other_paths_do_not_count(evaluator: NatEvaluator):
    files = {
        **gold(),
        "tests/conftest.py": "raise SystemExit",
        "pytest.ini": "[pytest]\naddopts = --co",
        "sitecustomize.py": "1/0",
    }
    assert (await evaluator.evaluate(spec(), files)).complete


async def lost(evaluator: NatEvaluator, changed: dict[str, str], *, server: bool = False) -> set[str]:
    """The names of the sub-scores that these changes of the gold files cost something."""
    evaluation = await evaluator.evaluate(spec(server=server), {**gold(server=server), **changed})
    assert not evaluation.complete
    return {name for name, score in evaluation.parts.items() if score < 1.0}


INTEGRATION = {"config_builds", "config_offers", "config_strict", "scenario"}
VALUES = {"tool_behaviour", "tool_errors", "tool_settings"}
UNBUILT = {*VALUES, "tool_builds", "tool_schema", "scenario", "tests"}
GOLD_MILES = gold()["nat_tools/miles_to_km.py"]


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        pytest.param(GOLD_MILES.replace('    description: str = "miles_to_km"\n', ""), UNBUILT, id="no description"),
        pytest.param(GOLD_MILES.replace(") -> float:", "):"), UNBUILT, id="no return hint"),
        pytest.param(GOLD_MILES.replace("    yield ", "    return "), UNBUILT, id="return for yield"),
        pytest.param(
            GOLD_MILES.replace("@register_function(config_type=ToolConfig)\n", ""),
            {*UNBUILT, "tool_registers"},
            id="no decorator",
        ),
        pytest.param(
            GOLD_MILES.replace('name="miles_to_km"', 'name="converter"'),
            {*UNBUILT, "tool_registers"},
            id="wrong name",
        ),
        pytest.param("1/0\n", {*UNBUILT, "tool_registers"}, id="raises at import"),
        pytest.param(miles("round(value * 1.609, 2)"), {"tool_settings"}, id="setting ignored"),
        pytest.param(miles("str(round(value * 1.609, config.digits))"), {*VALUES, "tests"}, id="text"),
        pytest.param(miles("16.09 if value == 10.0 else 0.0"), {*VALUES, "scenario", "tests"}, id="hard-coded"),
        pytest.param(
            GOLD_MILES.replace("value: float", "number: float").replace("value *", "number *"),
            {*VALUES, "tool_schema", "scenario", "tests"},
            id="argument renamed",
        ),
    ],
)
async def test_a_wrong_tool_loses_what_it_did_not_do(evaluator: NatEvaluator, source: str, parts: set[str]):
    assert await lost(evaluator, {"nat_tools/miles_to_km.py": source}) == parts


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        pytest.param(
            "llm: {model: x}\nagent: {type: react_agent}\ntools: [miles_to_km, shout]\n",
            {*INTEGRATION, "config_valid", "config_scaffold"},
            id="invented sections",
        ),
        pytest.param(config().replace(", shout]", "]"), {"config_offers", "config_strict", "scenario"}, id="tool left out"),
        pytest.param(config().replace(", shout]", ", shout_tool]"), INTEGRATION, id="dangling tool"),
        pytest.param(config().replace("llm_name: main", "llm_name: other"), INTEGRATION, id="dangling llm"),
        pytest.param(config(Scaffold.TOOL_CALLING), {"config_scaffold"}, id="another scaffold"),
        pytest.param(config().replace("{_type: shout}", "{_type: shout, volume: 11}"), {"config_strict"}, id="unknown key"),
        pytest.param(
            config().replace("_type: nim, model_name: meta/llama-3.1-70b-instruct", "_type: gym_llm"),
            {"config_scaffold"},
            id="gym",
        ),
        pytest.param(": [", {*INTEGRATION, "config_valid", "config_scaffold"}, id="no YAML"),
        pytest.param(
            "functions: !!python/object/apply:os._exit [0]", {*INTEGRATION, "config_valid", "config_scaffold"}, id="YAML tag"
        ),
    ],
)
async def test_a_wrong_configuration_loses_what_it_does_not_bind(evaluator: NatEvaluator, text: str, parts: set[str]):
    assert await lost(evaluator, {"agent_config.yml": text}) == parts


@pytest.mark.parametrize(
    ("script", "parts"),
    [
        pytest.param(
            "npx smithery install yahoo-finance-mcp --client claude\n", {"mcp_setup", "mcp_called", "scenario"}, id="client"
        ),
        pytest.param("npm install -g yahoo-finance-mcp\nnpm install -g left-pad\n", {"mcp_setup"}, id="unknown package"),
        pytest.param("exit 0\n", {"mcp_setup", "mcp_called", "scenario"}, id="nothing"),
        pytest.param("npm install -g yahoo-finance-mcp\nmkdir once\n", {"mcp_setup"}, id="only once"),
    ],
)
async def test_a_wrong_setup_script_loses_the_server(evaluator: NatEvaluator, script: str, parts: set[str]):
    assert await lost(evaluator, {"setup_mcp.sh": script}, server=True) == parts


@pytest.mark.parametrize(
    "test",
    [
        pytest.param("def test_tool():\n    assert True\n", id="asserts nothing"),
        pytest.param("import os\nos._exit(0)\n", id="exits with success"),
        pytest.param("import pytest\npytest.skip(allow_module_level=True)\n", id="skips itself"),
        pytest.param("", id="no test"),
        pytest.param(
            'import pathlib\ndef test_tool():\n    assert "1.609, config" in pathlib.Path("nat_tools/shout.py").read_text()\n',
            id="fails on right tools",
        ),
        pytest.param(TEST.format(name="shout", arguments="text=1", expected="2"), id="fails on its own tool"),
    ],
)
async def test_tests_that_cannot_tell_right_from_wrong_are_worth_nothing(evaluator: NatEvaluator, test: str):
    evaluation = await evaluator.evaluate(spec(), {**gold(), "tests/test_shout.py": test, "tests/test_miles_to_km.py": test})
    assert evaluation.parts["tests"] == 0.0


async def test_tests_in_one_common_file_are_judged_tool_by_tool(evaluator: NatEvaluator):
    files = gold()
    both = files.pop("tests/test_miles_to_km.py") + files.pop("tests/test_shout.py").replace("ToolConfig", "Other").replace(
        "import Other", "import ToolConfig as Other"
    ).replace("test_tool", "test_other")
    complete = await evaluator.evaluate(spec(), {**files, "tests/test_agent.py": both})
    half = await evaluator.evaluate(spec(), {**files, "tests/test_agent.py": gold()["tests/test_shout.py"]})
    assert (complete.parts["tests"], half.parts["tests"]) == (1.0, 0.5)


async def test_a_missing_tool_file_is_noted_and_the_rest_is_scored(evaluator: NatEvaluator):
    files = gold()
    files["tools/shout.py"] = files.pop("nat_tools/shout.py")
    evaluation = await evaluator.evaluate(spec(), files)
    assert evaluation.missing
    assert evaluation.tool_generation == 0.5
    assert evaluation.parts["config_builds"] == 1.0


async def test_an_empty_workspace_earns_nothing(evaluator: NatEvaluator):
    evaluation = await evaluator.evaluate(spec(server=True), {})
    assert (evaluation.tool_generation, evaluation.integration, evaluation.workflow) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("changed", "summary"),
    [
        ({}, "2 passed"),
        ({"nat_tools/shout.py": shout("text")}, "1 failed, 1 passed: test_tool: AssertionError: assert 'hi' == 'HI!'"),
        ({"tests/test_shout.py": "import nope"}, "1 failed, 1 passed: test_shout: ModuleNotFoundError: No module named 'nope'"),
        ({"tests/test_shout.py": "import os; os._exit(0)"}, "1 failed: tests: the process was lost: ended"),
    ],
)
async def test_a_test_run_is_summed_up_in_one_short_line(evaluator: NatEvaluator, changed: dict[str, str], summary: str):
    assert (await evaluator.run_tests({**gold(), **changed})).startswith(summary)


async def test_a_workspace_without_tests_has_none_to_run(evaluator: NatEvaluator):
    assert await evaluator.run_tests({}) == "no tests found"
