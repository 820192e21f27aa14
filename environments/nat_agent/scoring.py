"""One evaluation: the order in which a deliverable is run, and what is made of what comes back."""

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from pydantic import JsonValue

from core.types import JsonObject
from environments.nat_agent.deliverable import CONFIG, SETUP, missing, modules, suites
from environments.nat_agent.effort import Effort
from environments.nat_agent.fork_client import ChildLost, ChildMistake, Fork
from environments.nat_agent.judge_config import config_request, installed, judge_config, judge_setup, offer_of
from environments.nat_agent.judge_tests import Outcomes, RunWorld, judge_tests, outcomes_of, stock
from environments.nat_agent.judge_tools import judge_tool, no_scores
from environments.nat_agent.judge_workflow import Playbook, judge_workflow, scenario_kinds
from environments.nat_agent.mcp_desk import McpDesk
from environments.nat_agent.mcp_stand_in import listing
from environments.nat_agent.oracle import SpecOracle
from environments.nat_agent.plan import AgentSpec
from environments.nat_agent.reward import Evaluation, verdict
from environments.nat_agent.transcript import manner_of


class Trusted(NamedTuple):
    """What forks without the agent's tools answer."""

    oracle: SpecOracle
    config: Callable[[JsonObject], Awaitable[JsonObject]]
    """A question to runtime/trusted_config.py."""
    setup: Callable[[str, JsonObject], Awaitable[JsonObject]]
    """What a script and packages -> tools come to in runtime/setup_script.py: no tool may have a hand in that."""
    tests: RunWorld
    """Outcomes of the agent's tests on other tools than its own."""


class Scoring:
    """The scores of one deliverable, zero until something earned them."""

    def __init__(self, spec: AgentSpec, files: Mapping[str, str], trusted: Trusted, effort: Effort) -> None:
        self._plan, self._hidden, self._files, self._trusted = spec.plan, spec.hidden, files, trusted
        self._effort = effort
        self._desk = McpDesk({server.package: server.tools for server in spec.plan.mcp_servers})
        self._missing = missing(spec.plan, files)
        self._problems = [f"{name} is missing" for name in self._missing]
        self._tools = {tool.planned.name: no_scores(tool) for tool in trusted.oracle.tools}
        self._reports: JsonObject = {}
        self._integration = judge_config(spec.plan, {}, [])
        self._kinds = scenario_kinds(spec.plan, trusted.oracle, effort)
        self._workflow = {kind.value: 0.0 for kind in self._kinds} | ({"tests": 0.0} if effort.mutants else {})
        self._own_tests: Outcomes = {}
        self._ready: JsonObject = {}
        """The servers that the setup script installs, for the workflow to use."""
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
            tools = stock(self._plan.custom_tools, self._hidden, self._effort)
            behaviour = {name: scores["tool_behaviour"] for name, scores in self._tools.items()}
            run, problems = self._trusted.tests, self._problems
            self._workflow["tests"] = await judge_tests(tools, self._own_tests, run, problems, behaviour)
        elif self._effort.mutants and not suites(self._files):
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
            server.package: {"tools": listing(server.package, server.tools)} for server in self._plan.mcp_servers
        }
        facts = await self._trusted.setup(self._files[SETUP], servers)
        self._integration["mcp_setup"] = judge_setup(list(servers), facts, self._problems)
        self._desk.installed = installed(facts)
        self._ready = {package: about for package, about in servers.items() if package in self._desk.installed}

    async def _judge_config_and_run(self, fork: Fork) -> None:
        if CONFIG not in self._files:
            return
        facts = await self._trusted.config(config_request(self._plan, self._files[CONFIG], self._reports))
        self._integration |= judge_config(self._plan, facts, self._problems)
        functions = facts.get("functions")
        needed = isinstance(functions, dict) and any(str(kind).startswith("nat_tools/") for kind in functions.values())
        if facts.get("built") is True and (self._something_loads() or not needed):
            await self._run_workflow(fork, facts)

    async def _run_workflow(self, fork: Fork, facts: JsonObject) -> None:
        playbook = Playbook(self._plan, self._trusted.oracle, offer_of(self._plan, facts), self._desk)
        runs = playbook.runs(self._kinds, manner_of(facts))
        if not runs:
            return

        async def on_llm(question: JsonObject) -> JsonObject:
            number = question.get("run")
            run = runs[number] if isinstance(number, int) and 0 <= number < len(runs) else runs[0]
            return await run.script.answer(question)

        await self._install(fork)
        answers: JsonValue = []
        try:
            request: JsonObject = {"do": "workflow", "questions": [run.question for run in runs]}
            answers = (await fork.ask(request, {"llm": on_llm, "mcp": self._desk.answer})).get("answers")
        except ChildMistake as mistake:
            self._problems.append(f"workflow: {mistake}")
        scores, called = judge_workflow(self._plan, self._kinds, runs, answers, self._problems)
        self._workflow |= scores
        if self._plan.mcp_servers:
            self._integration["mcp_called"] = called

    async def _install(self, fork: Fork) -> None:
        if self._ready:
            try:
                await fork.ask({"do": "install", "servers": self._ready})
            except ChildMistake as mistake:
                self._problems.append(f"setup_mcp.sh: {mistake}")

    def _something_loads(self) -> bool:
        """Whether a tool of the agent can be imported: without one its tests and a workflow that names it cannot run."""
        return any(isinstance(report, dict) and report.get("stage") != "import" for report in self._reports.values())

    async def _run_own_tests(self, fork: Fork) -> None:
        if suites(self._files) and self._effort.mutants and self._something_loads():
            facts = await fork.ask({"do": "tests"})
            self._own_tests = outcomes_of(facts)
            if not self._own_tests:
                self._problems.append("tests/: no test was found")
