"""Plays the LLM of a workflow from a script, and judges the workflow by what it then sees.

The script is the host's and never enters the sandbox. The judgement rests on the observations that come back after
each tool call: they must be the values that only the right tool, called with the right arguments, gives.
"""

import json
import secrets
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from pydantic import JsonValue

from core.types import JsonObject
from environments.nat_agent.plan import Scaffold
from environments.nat_agent.values import said


class Manner(Enum):
    """How an agent's workflow and its LLM talk of tools."""

    TEXT = "Action and Action Input lines"
    NATIVE = "tool calls"
    PLAN = "a plan of all calls first, the evidence afterwards"


class Step(NamedTuple):
    """One tool call of a scenario, and what must come back."""

    tool: str
    """Its name as the workflow offers it."""
    arguments: JsonObject
    expected: JsonValue
    output_schema: JsonObject
    server: str | None = None
    """The MCP server that it belongs to."""


def manner_of(facts: JsonObject) -> Manner:
    """How the workflow talks that runtime/trusted_config.py described."""
    kind = str(facts.get("workflow")).rpartition("/")[2]
    if kind == Scaffold.REWOO:
        return Manner.PLAN
    return Manner.NATIVE if kind == Scaffold.TOOL_CALLING or facts.get("native_tools") is True else Manner.TEXT


class Script:
    """One scenario: each step's call in turn, then a final answer that carries a nonce."""

    def __init__(self, steps: Sequence[Step], manner: Manner) -> None:
        self.steps, self.manner = tuple(steps), manner
        self.nonce = secrets.token_hex(8)
        self.observed: list[str] = []
        """What came back after each call so far."""
        self._turns = 0

    async def answer(self, question: JsonObject) -> JsonObject:
        """The LLM's next message for the conversation in `question`."""
        messages = question.get("messages")
        conversation = [_content(message) for message in messages] if isinstance(messages, list) else []
        turn, self._turns = self._turns, self._turns + 1
        if self.manner is Manner.PLAN:
            return self._plan_or_solve(turn, conversation)
        if turn and len(self.observed) < len(self.steps):
            self.observed.append(conversation[-1] if conversation else "")
        return self._call(turn) if turn < len(self.steps) else self._final()

    def right(self) -> list[bool]:
        """For each step, whether its observation was the expected one."""
        seen = [*self.observed, *[""] * len(self.steps)]
        return [said(step.expected, text, step.output_schema) for step, text in zip(self.steps, seen, strict=False)]

    def answered(self, text: str) -> bool:
        """Whether the workflow's answer is the one that the LLM gave in its last turn, at the expected turn."""
        expected_turns = 2 if self.manner is Manner.PLAN else len(self.steps) + 1
        return self.nonce in text and self._turns == expected_turns

    def _call(self, turn: int) -> JsonObject:
        step = self.steps[turn]
        if self.manner is Manner.NATIVE:
            return {"content": "", "tool_calls": [{"name": step.tool, "args": step.arguments, "id": f"call_{turn}"}]}
        text = f"Thought: I need {step.tool}.\nAction: {step.tool}\nAction Input: {json.dumps(step.arguments)}"
        return {"content": text, "tool_calls": []}

    def _final(self) -> JsonObject:
        prefix = "Thought: I now know the final answer\nFinal Answer: " if self.manner is Manner.TEXT else ""
        return {"content": f"{prefix}done {self.nonce}", "tool_calls": []}

    def _plan_or_solve(self, turn: int, conversation: Sequence[str]) -> JsonObject:
        if turn == 0:
            evidence = [
                {"placeholder": f"#E{number}", "tool": step.tool, "tool_input": step.arguments}
                for number, step in enumerate(self.steps, start=1)
            ]
            plan = [{"plan": f"call {one['tool']}", "evidence": one} for one in evidence]
            return {"content": json.dumps(plan), "tool_calls": []}
        if not self.observed:
            text = "\n".join(conversation)
            self.observed = [_evidence(text, number, step.tool) for number, step in enumerate(self.steps, start=1)]
        return self._final()


def _content(message: JsonValue) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else ""


def _evidence(text: str, number: int, tool: str) -> str:
    """What the solver's prompt says came of one planned call: from its `Result: ` to the blank line."""
    _, _, after = text.partition(f"#E{number} = {tool}[")
    _, _, result = after.partition("\nResult: ")
    return result.partition("\n\n")[0]
