"""Scores NAT agents by running them: verdicts are made here, everything that a policy wrote runs in forks.

One fork holds an agent's code and answers one request at a time. Forks without it ask the references for the right
answers and judge the configuration. docs/reward.md says what is measured and what it weighs.
"""

import asyncio
import hashlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from backends.base import Backend
from core.logs import get_logger
from core.types import JsonObject, JsonValue
from environments.nat_agent.deliverable import SETUP, counted, suites
from environments.nat_agent.effort import EFFORTS, Effort, Level
from environments.nat_agent.fork_client import ChildLost, ChildMistake, ForkLimits
from environments.nat_agent.fork_server import DEFAULT_LIMITS, ForkServer
from environments.nat_agent.judge_tests import Outcomes, outcomes_of
from environments.nat_agent.oracle import SpecOracle, ask_oracle
from environments.nat_agent.plan import AgentSpec
from environments.nat_agent.remembered import Remembered
from environments.nat_agent.reward import Evaluation
from environments.nat_agent.scoring import Scoring, Trusted
from environments.nat_agent.summary import summarise

log = get_logger("nat_agent.evaluator")

REMEMBERED = 1024


class NatEvaluator:
    """Evaluates deliverables in forks of one NAT process, at most `parallel` deliverables at a time.

    Raises MissingRuntime where there is no NAT runtime. While it is open, the fork server is restarted when it dies.
    """

    def __init__(
        self,
        backend: Backend,
        nat_python: Path,
        *,
        parallel: int = 2,
        limits: ForkLimits = DEFAULT_LIMITS,
        level: Level = Level.STANDARD,
    ) -> None:
        self.server, self.level = ForkServer(backend, nat_python, limits), level
        self._slots = asyncio.Semaphore(parallel)
        self._secret = secrets.token_hex(16)
        self._oracles: Remembered[SpecOracle] = Remembered(REMEMBERED)
        # Of a group's deliverables many share a configuration or a test file; neither answer depends on anything else.
        self._configs: Remembered[JsonObject] = Remembered(REMEMBERED)
        self._setups: Remembered[JsonObject] = Remembered(REMEMBERED)
        self._worlds: Remembered[Outcomes] = Remembered(REMEMBERED)

    async def __aenter__(self) -> Self:
        await self.server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.server.stop()

    async def evaluate(self, spec: AgentSpec, files: Mapping[str, str], level: Level | None = None) -> Evaluation:
        """The verdict on a workspace, path -> text, as the agent left it; at the evaluator's own level where none is given.

        Only nat_tools/*.py, tests/test_*.py, agent_config.yml, setup_mcp.sh and pyproject.toml count. Raises RewardError
        or SandboxError for what is not the agent's fault.
        """
        deliverable, effort = counted(files), EFFORTS[level or self.level]
        async with self._slots:
            key = digest([spec.model_dump(mode="json"), list(effort)])
            oracle = await self._oracles.get(key, lambda: self._ask_oracle(spec, effort))
            tests = suites(deliverable)
            trusted = Trusted(oracle, self._judge_config, self._try_setup, lambda world: self._try_tests({**world, **tests}))
            scoring = Scoring(spec, deliverable, trusted, effort)
            async with self.server.fork() as fork:
                await scoring.run(fork)
            evaluation = await scoring.verdict()
        log.debug("evaluated", task=spec.task_id, complete=evaluation.complete, problems=len(evaluation.problems))
        return evaluation

    async def run_tests(self, files: Mapping[str, str]) -> str:
        """What the workspace's own tests say, in at most 200 characters: for the policy to read."""
        async with self._slots, self.server.fork() as fork:
            try:
                await fork.ask({"do": "files", "files": dict[str, JsonValue](counted(files))})
                facts = await fork.ask({"do": "tests", "explain": True})
            except ChildMistake as mistake:
                return summarise({"tests": "failed"}, {"tests": str(mistake)})
            except ChildLost as lost:
                return summarise({"tests": "failed"}, {"tests": f"the process was lost: {lost}"})
        errors = facts.get("errors")
        found = {name: str(error) for name, error in errors.items()} if isinstance(errors, dict) else {}
        return summarise(outcomes_of(facts), found)

    def forget(self) -> None:
        """Drop what is remembered of configurations and tests, for measurements."""
        self._configs.forget()
        self._setups.forget()
        self._worlds.forget()

    async def _ask_oracle(self, spec: AgentSpec, effort: Effort) -> SpecOracle:
        async with self.server.fork() as fork:
            return await ask_oracle(spec, fork, self._secret, effort)

    async def _judge_config(self, question: JsonObject) -> JsonObject:
        """NAT's facts about a configuration, from a fork that holds no agent code."""

        return await self._configs.get(digest(question), lambda: self._ask_alone(question))

    async def _try_setup(self, script: str, servers: JsonObject) -> JsonObject:
        """What setup_mcp.sh does in a fork that holds nothing else."""
        question: JsonObject = {"do": "setup", "servers": servers}
        return await self._setups.get(digest([script, question]), lambda: self._ask_alone(question, {SETUP: script}))

    async def _ask_alone(self, question: JsonObject, files: Mapping[str, str] = MappingProxyType({})) -> JsonObject:
        async with self.server.fork() as fork:
            try:
                if files:
                    await fork.ask({"do": "files", "files": dict[str, JsonValue](files)})
                return await fork.ask(question)
            except (ChildMistake, ChildLost) as error:
                return {"error": str(error)}

    async def _try_tests(self, files: Mapping[str, str]) -> Outcomes:
        """How the agent's tests end on given tools; nothing where they take their process down."""

        async def ask() -> Outcomes:
            async with self.server.fork() as fork:
                try:
                    await fork.ask({"do": "files", "files": dict[str, JsonValue](files)})
                    return outcomes_of(await fork.ask({"do": "tests"}))
                except (ChildMistake, ChildLost):
                    return {}

        return await self._worlds.get(digest(dict[str, JsonValue](files)), ask)


def digest(value: JsonValue) -> str:
    """A key for `value`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
