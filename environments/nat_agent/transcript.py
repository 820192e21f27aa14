"""Plays the LLM of a workflow from a script, and judges the workflow by what it then sees.

The script is the host's and never enters the sandbox. The judgement rests on the observations that come back after
each tool call: they must be the values that only the right tool, called with the right arguments, gives.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from pydantic import JsonValue

from core.types import JsonObject
from environments.nat_agent.values import said

NO_FEEDS: Mapping[str, int] = {}
STUMBLE = "I cannot say yet."


class Manner(Enum):
    """How an agent's workflow and its LLM talk of tools."""

    TEXT = "Action and Action Input lines"
    NATIVE = "tool calls"
    PLAN = "a plan of all calls first, the evidence afterwards"
    ROUTE = "the name of one branch, which answers"
    PIPE = "no LLM: each tool's answer is the next one's input"


MANNERS: Mapping[str, Manner] = {
    "tool_calling_agent": Manner.NATIVE,
    "rewoo_agent": Manner.PLAN,
    "router_agent": Manner.ROUTE,
    "sequential_executor": Manner.PIPE,
}
LOOPS = frozenset({Manner.TEXT, Manner.NATIVE})
"""Manners in which the LLM sees each answer before it goes on."""
UNSEEN = frozenset({Manner.ROUTE, Manner.PIPE})
"""Manners in which no LLM sees what a tool answers: it is the workflow's own answer."""


class Step(NamedTuple):
    """One tool call of a scenario, and what must come back."""

    tool: str
    """Its name as the workflow offers it."""
    arguments: JsonObject
    expected: JsonValue
    output_schema: JsonObject
    server: str | None = None
    """The MCP server that it belongs to."""
    feeds: Mapping[str, int] = NO_FEEDS
    """Argument -> index of the earlier step whose answer it is."""
    mistaken: bool = False
    """The arguments are wrong on purpose: anything may come back, and the agent goes on."""


def manner_of(facts: JsonObject) -> Manner:
    """How the workflow talks that runtime/trusted_config.py described."""
    manner = MANNERS.get(str(facts.get("workflow")).rpartition("/")[2], Manner.TEXT)
    return Manner.NATIVE if manner is Manner.TEXT and facts.get("native_tools") is True else manner


class Script:
    """One run: each step's call in turn, then a final answer that carries a nonce.

    A router makes one step, and a pipe has no LLM: there the workflow's answer is the last step's own. `stumbles`: the
    LLM first says something that the workflow cannot use.
    """

    def __init__(self, steps: Sequence[Step], manner: Manner, *, stumbles: bool = False) -> None:
        self.steps, self.manner, self._stumbles = tuple(steps), manner, stumbles
        self.nonce = secrets.token_hex(8)
        self.observed: list[str] = []
        """What came back after each call so far."""
        self._turns = 0

    async def answer(self, question: JsonObject) -> JsonObject:
        """The LLM's next message for the conversation in `question`."""
        messages = question.get("messages")
        conversation = [_content(message) for message in messages] if isinstance(messages, list) else []
        turn, self._turns = self._turns, self._turns + 1
        if self.manner is Manner.ROUTE:
            return _text(STUMBLE if self._stumbles and not turn else self.steps[-1].tool)
        if self.manner is Manner.PLAN:
            return self._plan_or_solve(turn, conversation)
        if turn and len(self.observed) < len(self.steps):
            self.observed.append(conversation[-1] if conversation else "")
        return self._call(turn) if turn < len(self.steps) else self._final()

    def right(self, answer: str = "") -> list[bool]:
        """For each step, whether its observation was the expected one; where nobody observes, whether `answer` is."""
        if self.manner in UNSEEN:
            return [self.answered(answer)] * len(self.steps)
        seen = [*self.observed, *[""] * len(self.steps)]
        return [said(step.expected, text, step.output_schema) for step, text in zip(self.steps, seen, strict=False)]

    def answered(self, answer: str) -> bool:
        """Whether the workflow's answer is the one that the script leads to, after the expected turns."""
        last = self.steps[-1]
        reached = said(last.expected, answer, last.output_schema) if self.manner in UNSEEN else self.nonce in answer
        return reached and self._turns == self._expected_turns()

    def points(self, answer: str) -> tuple[int, int]:
        """What was right, and out of how much: every call that could work, and the answer."""
        ended = self.answered(answer)
        if self.manner in UNSEEN:
            return int(ended), 1
        good = [right for step, right in zip(self.steps, self.right(), strict=True) if not step.mistaken]
        return sum(good) + ended, len(good) + 1

    def _expected_turns(self) -> int:
        match self.manner:
            case Manner.PIPE:
                return 0
            case Manner.ROUTE:
                return 1 + self._stumbles
            case Manner.PLAN:
                return 2
            case _:
                return len(self.steps) + 1

    def _call(self, turn: int) -> JsonObject:
        step = self.steps[turn]
        if self.manner is Manner.NATIVE:
            return {"content": "", "tool_calls": [{"name": step.tool, "args": step.arguments, "id": f"call_{turn}"}]}
        return _text(f"Thought: I need {step.tool}.\nAction: {step.tool}\nAction Input: {json.dumps(step.arguments)}")

    def _final(self) -> JsonObject:
        prefix = "Thought: I now know the final answer\nFinal Answer: " if self.manner is Manner.TEXT else ""
        return _text(f"{prefix}done {self.nonce}")

    def _plan_or_solve(self, turn: int, conversation: Sequence[str]) -> JsonObject:
        if turn == 0:
            evidence = [
                {"placeholder": f"#E{number}", "tool": step.tool, "tool_input": _planned(step)}
                for number, step in enumerate(self.steps, start=1)
            ]
            plan = [{"plan": f"call {one['tool']}", "evidence": one} for one in evidence]
            return _text(json.dumps(plan))
        if not self.observed:
            text = "\n".join(conversation)
            self.observed = [_evidence(text, number, step.tool) for number, step in enumerate(self.steps, start=1)]
        return self._final()


def _planned(step: Step) -> JsonObject:
    """Arguments as a planner writes them that has not seen the earlier answers."""
    return {**step.arguments, **{name: f"#E{index + 1}" for name, index in step.feeds.items()}}


def _text(content: str) -> JsonObject:
    return {"content": content, "tool_calls": []}


def _content(message: JsonValue) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else ""


def _evidence(text: str, number: int, tool: str) -> str:
    """What the solver's prompt says came of one planned call: from its `Result: ` to the blank line."""
    _, _, after = text.partition(f"#E{number} = {tool}[")
    _, _, result = after.partition("\nResult: ")
    return result.partition("\n\n")[0]
