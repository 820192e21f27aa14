"""What the prompt teaches is true: its example, handed in as it stands, is a complete agent on the real NAT."""

import json
import re
from itertools import islice

import pytest

from environments.base import Split
from environments.nat_agent.conversation import FOLDER, Prompt, describe_fully, opening
from environments.nat_agent.effort import Level
from environments.nat_agent.environment import NatAgent, NatAgentConfig
from environments.nat_agent.evaluator import NatEvaluator
from environments.nat_agent.expert import Expert
from environments.nat_agent.mcp_registry import servers
from environments.nat_agent.plan import (
    AgentPlan,
    AgentSpec,
    ArgumentKind,
    ArgumentRecipe,
    ConfigField,
    HiddenTool,
    PlannedTool,
    Scaffold,
    TestCase,
)
from environments.nat_agent.planner import plan_request
from environments.nat_agent.requests import Mix, specs
from tests.environments.nat_agent.test_expert import calls

FILE = re.compile(r"^`([\w./]+)`:\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLE = dict(FILE.findall((FOLDER / "nat.md").read_text(encoding="utf-8")))
NUMBER = ArgumentRecipe(kind=ArgumentKind.NUMBER, low=1, high=90)
REFERENCE = EXAMPLE["nat_tools/percent_change.py"]


def example_spec() -> AgentSpec:
    """What the example of the prompt fulfils."""
    number = {"type": "number"}
    exa = next(server for server in servers() if server.name == "exa")
    tool = PlannedTool(
        name="percent_change",
        purpose="percentage change from old to new, rounded to digits",
        input_schema={"type": "object", "properties": {"old": number, "new": number}, "required": ["old", "new"]},
        output_schema=number,
        config=(ConfigField(name="digits", type="int", default=2),),
    )
    hidden = HiddenTool(
        name="percent_change",
        reference=REFERENCE,
        inputs={"old": NUMBER, "new": NUMBER},
        mutants=(REFERENCE.replace("/ old", "/ new"), REFERENCE.replace("* 100", "* 10")),
    )
    plan = AgentPlan(
        user_request="percent changes, and what the web says of them",
        scaffold_type=Scaffold.REACT,
        mcp_servers=(exa.planned(),),
        custom_tools=(tool,),
        test_cases=(TestCase(test_id="up", tool="percent_change", arguments={"old": 80.0, "new": 100.0}, expected=25.0),),
    )
    return AgentSpec(task_id="example", plan=plan, hidden=(hidden,))


def written(spec: AgentSpec) -> dict[str, str]:
    """The files of the expert's gold answer."""
    made = [json.loads(call.arguments) for call in calls(Expert(spec).completions())]
    return {one["path"]: one["content"] for one in made if "path" in one}


def test_the_example_has_every_file_of_the_deliverable():
    assert list(EXAMPLE) == ["nat_tools/percent_change.py", "tests/test_percent_change.py", "agent_config.yml", "setup_mcp.sh"]


@pytest.mark.nat
@pytest.mark.asyncio(loop_scope="session")
async def test_the_example_is_a_complete_agent(evaluator: NatEvaluator):
    evaluation = await evaluator.evaluate(example_spec(), EXAMPLE, Level.FULL)
    assert evaluation.problems == ()
    assert evaluation.complete


@pytest.mark.nat
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("scaffold", Scaffold)
async def test_the_gold_answer_of_the_full_mix_is_complete(evaluator: NatEvaluator, scaffold: Scaffold):
    found = (spec for spec in specs(5, held_out=False, mix=Mix.FULL) if spec.plan.scaffold_type is scaffold)
    for spec in islice(found, 4):
        evaluation = await evaluator.evaluate(spec, written(spec), Level.FULL)
        assert (evaluation.problems, evaluation.complete) == ((), True), spec.plan.user_request


@pytest.mark.nat
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("server", servers(), ids=lambda server: server.name)
async def test_every_server_is_listed_and_called_through_nat(evaluator: NatEvaluator, server):
    spec = plan_request(f"An agent using {server.name}: replace tiger with eagle.")
    every = spec.plan.model_copy(update={"mcp_servers": (server.planned(*(tool.name for tool in server.tools)),)})
    spec = spec.model_copy(update={"plan": every})
    evaluation = await evaluator.evaluate(spec, written(spec), Level.FULL)
    assert evaluation.problems == ()
    assert (evaluation.parts["mcp_called"], evaluation.parts["scenario_chain"]) == (1.0, 1.0)


def test_the_environment_tells_what_its_prompt_says():
    for prompt in Prompt:
        task = NatAgent(NatAgentConfig(prompt=prompt)).tasks(Split.HELD_OUT)[0]
        assert task.messages[0].content == (FOLDER / f"{prompt}.md").read_text(encoding="utf-8").strip()


def test_the_full_description_names_every_fact_of_the_plan():
    plan = plan_request("An agent that plans ahead using exa: convert miles to feet, count the word tiger.").plan
    told = opening(plan, Prompt.NAT)[1].content
    for fact in (
        plan.user_request,
        "`_type: rewoo_agent`",
        "miles_to_feet(value: float) -> float",
        "multiply value by 5280",
        "setting `digits: int = 2`",
        '{"type": "integer"}',
        "package `exa-mcp-server`: `web_search_exa`",
    ):
        assert fact in told


def test_the_configuration_is_the_agents_to_write():
    plan = plan_request("An agent: convert miles to feet.").plan
    assert plan.yaml_config_template not in describe_fully(plan)
