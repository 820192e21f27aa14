"""One evaluation: the order in which a deliverable is run, and what is made of what comes back."""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from pydantic import JsonValue

from core.types import JsonObject
from environments.nat_agent.deliverable import CONFIG, SETUP, missing, modules, suites
from environments.nat_agent.fork_client import ChildLost, ChildMistake, Fork
from environments.nat_agent.judge_config import Offer, config_request, judge_config, judge_setup, offer_of
from environments.nat_agent.judge_tests import Outcomes, World, judge_tests, outcomes_of
from environments.nat_agent.judge_tools import judge_tool, no_scores
from environments.nat_agent.oracle import SpecOracle
from environments.nat_agent.plan import AgentSpec
from environments.nat_agent.reward import Evaluation, verdict
from environments.nat_agent.runtime.mini_mcp import value_of
from environments.nat_agent.transcript import Script, Step, manner_of

QUESTION = "Use every tool once, then answer."


class Trusted(NamedTuple):
    """What forks without the agent's tools answer."""

    oracle: SpecOracle
    config: Callable[[JsonObject], Awaitable[JsonObject]]
    """A question to runtime/trusted_config.py."""
    tests: Callable[[World], Awaitable[Outcomes]]
    """Outcomes of the agent's tests on other tools than its own."""


class Scoring:
    """The scores of one deliverable, zero until something earned them."""

    def __init__(self, spec: AgentSpec, files: Mapping[str, str], trusted: Trusted) -> None:
        self._plan, self._hidden, self._files, self._trusted = spec.plan, spec.hidden, files, trusted
        self._secret = secrets.token_hex(16)
        self._missing = missing(spec.plan, files)
        self._problems = [f"{name} is missing" for name in self._missing]
        self._tools = {tool.planned.name: no_scores(tool) for tool in trusted.oracle.tools}
        self._reports: JsonObject = {}
        self._integration = judge_config(spec.plan, {}, [])
        self._workflow = {"scenario": 0.0, "tests": 0.0}
        self._own_tests: Outcomes = {}
        if spec.plan.mcp_servers:
            self._integration |= {"mcp_setup": 0.0, "mcp_called": 0.0}

    async def run(self, fork: Fork) -> None:
        """Run the deliverable in a fresh fork. Whatever breaks in there costs points and nothing else."""
        for step in (self._load, self._use_tools, self._set_up, self._judge_config_and_run, self._run_own_tests):
            try:
                await step(fork)
            except ChildMistake as mistake:
                self._problems.append(f"{step.__name__.strip('_')}: {mistake}")
            except ChildLost as lost:
                self._problems.append(f"{step.__name__.strip('_')}: the process was lost: {lost}")

    async def verdict(self) -> Evaluation:
        """The evaluation, after the tests were tried on other tools than the agent's own."""
        if self._own_tests:
            self._workflow["tests"] = await judge_tests(self._hidden, self._own_tests, self._trusted.tests, self._problems)
        elif not suites(self._files):
            self._problems.append("tests/: no test_*.py")
        return verdict(
            list(self._tools.values()),
            self._integration,
            self._workflow,
            missing=bool(self._missing),
            problems=self._problems,
        )

    async def _load(self, fork: Fork) -> None:
        await fork.ask({"do": "files", "files": dict(self._files)})
        self._reports = await fork.ask({"do": "load", "names": list[JsonValue](modules(self._files))})

    async def _use_tools(self, fork: Fork) -> None:
        for oracle in self._trusted.oracle.tools:
            name = oracle.planned.name
            if name in self._reports:
                await judge_tool(fork, oracle, self._reports[name], self._tools[name], self._problems)

    async def _set_up(self, fork: Fork) -> None:
        if not self._plan.mcp_servers or SETUP not in self._files:
            return
        servers: JsonObject = {
            server.package: {"tools": list(server.tools), "secret": self._secret} for server in self._plan.mcp_servers
        }
        facts = await fork.ask({"do": "setup", "servers": servers})
        self._integration["mcp_setup"] = judge_setup(list(servers), facts, self._problems)

    async def _judge_config_and_run(self, fork: Fork) -> None:
        if CONFIG not in self._files:
            return
        facts = await self._trusted.config(config_request(self._plan, self._files[CONFIG], self._reports))
        self._integration |= judge_config(self._plan, facts, self._problems)
        if facts.get("built") is True:
            await self._run_workflow(fork, facts)

    async def _run_workflow(self, fork: Fork, facts: JsonObject) -> None:
        steps, wanted = self._steps(offer_of(self._plan, facts))
        script = Script(steps, manner_of(facts))
        answers: JsonValue = []
        try:
            answers = (await fork.ask({"do": "workflow", "questions": [QUESTION]}, script.answer)).get("answers")
        except ChildMistake as mistake:
            self._problems.append(f"workflow: {mistake}")
        answer = str(answers[0]) if isinstance(answers, list) and answers else ""
        right = dict(zip((step.tool for step in steps), script.right(), strict=True))
        self._workflow["scenario"] = (sum(right.values()) + script.answered(answer)) / (wanted + 1)
        self._problems += [
            f"workflow: {name} does not come back with the right value" for name, good in right.items() if not good
        ]
        if self._plan.mcp_servers:
            served = [good for step, good in zip(steps, right.values(), strict=True) if step.server]
            self._integration["mcp_called"] = sum(served) / sum(len(server.tools) for server in self._plan.mcp_servers)

    def _steps(self, offer: Offer) -> tuple[list[Step], int]:
        """One call of each planned tool that is offered, and how many tools the plan has."""
        steps = [
            Step(key, tool.scenario.arguments, tool.scenario.expected, tool.planned.output_schema)
            for tool in self._trusted.oracle.tools
            if (key := offer.tools[tool.planned.name]) is not None
        ]
        for server in self._plan.mcp_servers:
            if (group := offer.servers[server.name]) is not None:
                for tool in server.tools:
                    key = secrets.token_hex(4)
                    value = value_of(self._secret, tool, key)
                    steps.append(Step(f"{group}__{tool}", {"key": key}, value, {"type": "string"}, server=server.name))
        return steps, len(self._plan.custom_tools) + sum(len(server.tools) for server in self._plan.mcp_servers)

    async def _run_own_tests(self, fork: Fork) -> None:
        if suites(self._files):
            facts = await fork.ask({"do": "tests"})
            self._own_tests = outcomes_of(facts)
            if not self._own_tests:
                self._problems.append("tests/: no test was found")
