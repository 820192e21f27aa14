"""Scores the agent's workflow by hidden scenarios, from what the scripted LLM saw and what came out at the end.

A scenario is one or more runs of the workflow, each with a script of its own. All runs are of one workflow, one after
the other, as in one session.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from pydantic import JsonValue

from core.types import JsonObject
from environments.nat_agent.effort import Effort
from environments.nat_agent.judge_config import SEPARATOR, Offer
from environments.nat_agent.mcp_desk import McpDesk
from environments.nat_agent.mcp_stand_in import free_text
from environments.nat_agent.oracle import ONE_TEXT, Call, Link, SpecOracle, ToolOracle
from environments.nat_agent.plan import AgentPlan, PlannedServer, PlannedTool
from environments.nat_agent.transcript import LOOPS, UNSEEN, Manner, Script, Step

QUESTION = "Use every tool once, then answer."
NO_SENSE: JsonObject = {"no": "question"}
TEXT: JsonObject = {"type": "string"}


class Kind(StrEnum):
    """The scenarios, by the names of their sub-scores."""

    ALL = "scenario"
    """Every planned tool and MCP tool once."""
    REPEAT = "scenario_repeat"
    """The same again: the same comes back."""
    CHAIN = "scenario_chain"
    """The answer of one tool handed to another one."""
    RECOVERY = "scenario_recovery"
    """A call that cannot work, then one that can."""


class Run(NamedTuple):
    """One run of the workflow: what it is asked, and what its LLM says."""

    kind: Kind
    question: JsonValue
    script: Script
    counts: bool = True
    """Whether its answer is judged; a run that is meant to fail is only survived."""


def scenario_kinds(plan: AgentPlan, oracle: SpecOracle, effort: Effort) -> list[Kind]:
    """The scenarios that a plan gives reason for."""
    if not effort.scenarios:
        return [Kind.ALL]
    chained = plan.scaffold_type not in ONE_TEXT and (oracle.chain or (plan.mcp_servers and _text_tool(oracle)))
    recovers = plan.scaffold_type in ONE_TEXT or any(tool.refused for tool in oracle.tools)
    return [Kind.ALL, Kind.REPEAT, *([Kind.CHAIN] if chained else []), *([Kind.RECOVERY] if recovers else [])]


class Playbook:
    """The runs of one workflow, in its manner. `desk` answers for the MCP servers."""

    def __init__(self, plan: AgentPlan, oracle: SpecOracle, offer: Offer, desk: McpDesk) -> None:
        self._plan, self._oracle, self._offer, self._desk = plan, oracle, offer, desk

    def runs(self, kinds: Sequence[Kind], manner: Manner) -> list[Run]:
        """What the workflow is asked, in order. A scenario that this manner cannot play has no run and earns nothing."""
        everything = self._pipe() if manner is Manner.PIPE else self._everything()
        found: list[Run] = []
        for kind in kinds:
            match kind:
                case Kind.RECOVERY:
                    found += self._recovery(manner)
                case Kind.CHAIN:
                    found += [] if manner in UNSEEN else _plays(kind, self._chain(), manner)
                case _:
                    found += _plays(kind, everything, manner)
        return found

    def _everything(self) -> list[Step]:
        """One call of each planned tool that is offered."""
        steps = [step for tool in self._oracle.tools if (step := self._step(tool.planned, tool.scenario)) is not None]
        return [*steps, *(self._served(server, tool) for server, tool in self._offered_served())]

    def _chain(self) -> list[Step]:
        """Calls that are each fed with the answer before; none where one of them is not offered."""
        links = self._oracle.chain
        if not links and (first := _text_tool(self._oracle)) is not None:
            links = (Link(first.planned, first.scenario, None),)
        steps = self._linked(links, self._offered_served()[:1])
        return steps if len(steps) > 1 else []

    def _pipe(self) -> list[Step]:
        """Every tool of the plan in its order, then every tool of its servers."""
        served = self._offered_served()
        planned = sum(len(server.tools) for server in self._plan.mcp_servers)
        return self._linked(self._oracle.pipe, served) if len(served) == planned else []

    def _linked(self, links: Sequence[Link], served: Sequence[tuple[PlannedServer, str]]) -> list[Step]:
        steps: list[Step] = []
        for index, link in enumerate(links):
            step = self._step(link.planned, link.call)
            if step is None:
                return []
            steps.append(step._replace(feeds={link.fed: index - 1} if link.fed else {}))
        for server, tool in served if steps else ():
            if isinstance(text := steps[-1].expected, str):
                fed = free_text(server.package, tool)
                steps.append(self._served(server, tool, {fed: text})._replace(feeds={fed: len(steps) - 1}))
        return steps

    def _recovery(self, manner: Manner) -> list[Run]:
        """A call that cannot work and one that can; where no LLM sees the error, a run that fails and one that does not."""
        if manner is Manner.PIPE:
            steps = self._pipe()
            return [run._replace(question=NO_SENSE, counts=False) for run in _plays(Kind.RECOVERY, steps, manner)] + _plays(
                Kind.RECOVERY, steps, manner
            )
        for tool in self._oracle.tools:
            good = self._step(tool.planned, tool.behaviour[0])
            if good is not None and manner is Manner.ROUTE:
                return [Run(Kind.RECOVERY, _said_to(good), Script([good], manner, stumbles=True))]
            if good is not None and tool.refused:
                bad = good._replace(arguments=tool.refused[0], mistaken=True)
                if manner in LOOPS:
                    return _plays(Kind.RECOVERY, [bad, good], manner)
                failing = Run(Kind.RECOVERY, QUESTION, Script([bad], manner), counts=False)
                return [failing, *_plays(Kind.RECOVERY, [good], manner)]
        return []

    def _step(self, planned: PlannedTool, call: Call) -> Step | None:
        key = self._offer.tools[planned.name]
        return Step(key, call.arguments, call.expected, planned.output_schema) if key is not None else None

    def _served(self, server: PlannedServer, tool: str, given: JsonObject | None = None) -> Step:
        name = f"{self._offer.servers[server.name]}{SEPARATOR}{tool}"
        arguments = {**self._desk.question(server.package, tool), **(given or {})}
        return Step(name, arguments, self._desk.value(server.package, tool, arguments), TEXT, server=server.name)

    def _offered_served(self) -> list[tuple[PlannedServer, str]]:
        """The tools of servers that are offered."""
        servers = [server for server in self._plan.mcp_servers if self._offer.servers[server.name] is not None]
        return [(server, tool) for server in servers for tool in server.tools]


def judge_workflow(
    plan: AgentPlan, kinds: Sequence[Kind], runs: Sequence[Run], answers: JsonValue, problems: list[str]
) -> tuple[dict[str, float], float]:
    """Sub-scores by kind, and the share of the planned servers' tools that came back right.

    `answers` is what the child says came of each run, of unknown shape.
    """
    found = list(answers) if isinstance(answers, list) else []
    texts = [_part(answer, "answer") for answer in found[: len(runs)]] + [""] * (len(runs) - len(found))
    played = [(run, text) for run, text in zip(runs, texts, strict=True) if run.counts]
    in_all = len(plan.custom_tools) + sum(len(server.tools) for server in plan.mcp_servers)
    scores: dict[str, float] = {}
    for kind in kinds:
        points = [run.script.points(text) for run, text in played if run.kind is kind]
        steps = sum(len(run.script.steps) for run, _ in played if run.kind is kind)
        not_offered = max(0, in_all - steps) if kind in (Kind.ALL, Kind.REPEAT) else 0
        possible = sum(out_of for _, out_of in points) + not_offered
        scores[kind.value] = sum(good for good, _ in points) / possible if possible else 0.0
    if Kind.REPEAT in scores:
        scores[Kind.REPEAT.value] = min(scores[Kind.REPEAT.value], scores[Kind.ALL.value])
    problems += _problems(played, found)
    firsts = [(step, good) for run, text in played if run.kind is Kind.ALL for step, good in _judged(run, text)]
    served = sum(good for step, good in firsts if step.server)
    return scores, served / max(1, sum(len(server.tools) for server in plan.mcp_servers))


def _plays(kind: Kind, steps: Sequence[Step], manner: Manner) -> list[Run]:
    """The runs that take these steps: one each for a router, one for all of them else."""
    if manner is Manner.ROUTE:
        return [Run(kind, _said_to(step), Script([step], manner)) for step in steps]
    question = _said_to(steps[0]) if manner is Manner.PIPE and steps else QUESTION
    return [Run(kind, question, Script(steps, manner))] if steps else []


def _said_to(step: Step) -> JsonValue:
    """The question that a tool gets as its argument where no LLM writes arguments."""
    return next(iter(step.arguments.values()), "")


def _judged(run: Run, text: str) -> list[tuple[Step, bool]]:
    return list(zip(run.script.steps, run.script.right(text), strict=True))


def _problems(played: Sequence[tuple[Run, str]], answers: Sequence[JsonValue]) -> list[str]:
    wrong = {
        f"workflow: {step.tool} does not come back with the right value ({run.kind})": None
        for run, text in played
        for step, good in _judged(run, text)
        if not good and not step.mistaken
    }
    errors = [f"workflow: {error}" for answer in answers if (error := _part(answer, "error"))]
    return [*wrong, *(errors if wrong else [])]


def _part(answer: JsonValue, name: str) -> str:
    part = answer.get(name) if isinstance(answer, dict) else None
    return part if isinstance(part, str) else ""


def _text_tool(oracle: SpecOracle) -> ToolOracle | None:
    """A tool whose answer an MCP tool can take."""
    return next((tool for tool in oracle.tools if isinstance(tool.scenario.expected, str) and tool.scenario.expected), None)
