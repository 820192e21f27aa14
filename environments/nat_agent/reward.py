"""What an evaluation is worth: the weights of docs/reward.md, and nothing else.

The sub-scores are numbers in [0, 1] that were measured by running the deliverable. A part that a plan does not ask for
(no setting, no MCP server) or that a level does not try is left out and the weights of the others are scaled up to 1.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from core.types import Reward, Value

TOOL_WEIGHTS: Mapping[str, float] = {
    "tool_registers": 0.10,
    "tool_builds": 0.10,
    "tool_schema": 0.15,
    "tool_behaviour": 0.40,
    "tool_errors": 0.10,
    "tool_settings": 0.15,
}
INTEGRATION_WEIGHTS: Mapping[str, float] = {
    "config_valid": 0.10,
    "config_builds": 0.20,
    "config_scaffold": 0.10,
    "config_offers": 0.15,
    "config_strict": 0.05,
    "mcp_setup": 0.20,
    "mcp_called": 0.20,
}
WORKFLOW_WEIGHTS: Mapping[str, float] = {
    "scenario": 0.49,
    "scenario_chain": 0.10,
    "scenario_recovery": 0.10,
    "scenario_repeat": 0.10,
    "tests": 0.21,
}

TOOL_GENERATION_SHARE, INTEGRATION_SHARE, WORKFLOW_SHARE = 0.30, 0.30, 0.40
EFFICIENCY, MISSING = 0.3, -0.5
COMPLETE_FROM = 0.99
MAX_PROBLEMS, MAX_PROBLEM = 40, 300


class Scale(StrEnum):
    """What the best agent is worth."""

    RAW = "raw"
    """Totals between -0.5 and 2.3: completeness is worth 1.0."""
    TWO = "two"
    """Totals between -0.5 and 2.0: completeness is worth 0.7, so that efficiency still counts."""


COMPLETENESS: Mapping[Scale, float] = {Scale.RAW: 1.0, Scale.TWO: 0.7}
LOWEST = MISSING
HIGHEST: Mapping[Scale, float] = {Scale.RAW: 2.3, Scale.TWO: 2.0}


class Evaluation(Value):
    """The verdict on one deliverable."""

    tool_generation: float
    integration: float
    workflow: float
    parts: dict[str, float]
    """Every sub-score by name; those of tools are means over the planned tools."""
    missing: bool
    """A required tool file or agent_config.yml is not there."""
    problems: tuple[str, ...] = ()
    """What went wrong, for people; partly in the words of code that the policy wrote."""

    @property
    def complete(self) -> bool:
        """Everything works."""
        return min(self.tool_generation, self.integration, self.workflow) >= COMPLETE_FROM


def weighted(scores: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The mean of the scores that are there, by weight; 0 where none is."""
    total = sum(weights[name] for name in scores)
    return sum(weights[name] * score for name, score in scores.items()) / total if total else 0.0


def verdict(
    tools: Sequence[Mapping[str, float]],
    integration: Mapping[str, float],
    workflow: Mapping[str, float],
    *,
    missing: bool,
    problems: Sequence[str] = (),
) -> Evaluation:
    """An evaluation from sub-scores; `tools` has one mapping for each planned tool."""
    names = [name for name in TOOL_WEIGHTS if any(name in scores for scores in tools)]
    columns = {name: [scores[name] for scores in tools if name in scores] for name in names}
    return Evaluation(
        tool_generation=sum(weighted(scores, TOOL_WEIGHTS) for scores in tools) / len(tools),
        integration=weighted(integration, INTEGRATION_WEIGHTS),
        workflow=weighted(workflow, WORKFLOW_WEIGHTS),
        parts={**{name: sum(column) / len(column) for name, column in columns.items()}, **integration, **workflow},
        missing=missing,
        problems=tuple(problem[:MAX_PROBLEM] for problem in problems[:MAX_PROBLEMS]),
    )


def nat_reward(evaluation: Evaluation, turns: int, max_turns: int, scale: Scale = Scale.RAW) -> Reward:
    """The reward of an episode that took `turns` of at most `max_turns`; between LOWEST and HIGHEST[scale].

    `metrics` hold tool_generation, integration, workflow, success, turns and every sub-score.
    """
    complete = evaluation.complete and not evaluation.missing
    efficiency = min(1.0, max(0.0, 1.0 - turns / max_turns))
    metrics = {
        "tool_generation": evaluation.tool_generation,
        "integration": evaluation.integration,
        "workflow": evaluation.workflow,
        "success": float(complete),
        "success_rate": float(complete),
        "turns": float(turns),
        **evaluation.parts,
    }
    return Reward.of(
        metrics,
        tool_generation=TOOL_GENERATION_SHARE * evaluation.tool_generation,
        integration=INTEGRATION_SHARE * evaluation.integration,
        workflow=WORKFLOW_SHARE * evaluation.workflow,
        completeness=COMPLETENESS[scale] * complete,
        efficiency=EFFICIENCY * efficiency * complete,
        missing=MISSING * evaluation.missing,
    )
