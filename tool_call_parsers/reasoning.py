"""Reasoning formats: how a model family marks what it thinks, and where its answer begins.

Reasoning is split off before tool calls are looked for. Whether a completion begins inside of it is read from the
prompt and never guessed: `starts_in_reasoning=None` says that the prompt is not known, and only then a format whose
template opens every block takes the text before the first closer for reasoning.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from tool_call_parsers.markers import blank_end, first_of, marker_at


class Trim(StrEnum):
    """Which white space around reasoning is the format's and not the model's."""

    BOTH = "both"
    END = "end"
    NONE = "none"


class SplitReasoning(NamedTuple):
    """What was thought (None: nothing was marked as reasoning) and what was said after it."""

    reasoning: str | None
    answer: str
    closed: bool = True
    """False where the text ended, or a tool call began, before the block was closed."""


@dataclass(frozen=True)
class ReasoningFormat:
    """The markers of one family. `prompted`: its template opens the block at the end of the prompt."""

    name: str
    openers: tuple[str, ...] = ("<think>",)
    closers: tuple[str, ...] = ("</think>",)
    prompted: bool = False
    trim: Trim = Trim.BOTH
    repeats: bool = False
    """A further block may follow the first: their texts are joined by line breaks."""
    answer: tuple[tuple[str, str], ...] = ()
    """Tags around the answer, which are no part of it."""
    swap_when_empty: bool = False
    """Told not to think, the model may do so all the same; where nothing else follows, that is its answer."""
    kept_in_content: bool = False
    """Reasoning stays where it is, in its tags."""
    opened_by_prompt: bool = False
    """The template opens every block or closes it: behind a prompt that opened none, an opener is text of the model."""

    def behind(self, starts_in_reasoning: bool | None) -> "ReasoningFormat":
        """The format as it is to be read behind a prompt that did, or did not, open a block."""
        return replace(self, openers=()) if self.opened_by_prompt and starts_in_reasoning is False else self

    def opens(self, prompt: str) -> bool:
        """Whether a prompt ends inside a reasoning block: what `starts_in_reasoning` should be."""
        return prompt.rstrip().endswith(tuple(opener.rstrip() for opener in self.openers))

    def split(
        self,
        text: str,
        *,
        starts_in_reasoning: bool | None = False,
        tool_markers: Sequence[str] = (),
        thinking: bool = True,
    ) -> SplitReasoning:
        """Split one completion. Time is linear; never raises.

        A tool call inside reasoning that is never closed ends it (`tool_markers` are what begins one); inside
        closed reasoning it is prose. A closer at the very begin closes an empty block. A second closer straight
        after the first is dropped. `thinking=False`: the template was told not to think, so everything is answer
        (see `swap_when_empty`).
        """
        if not thinking and not self.swap_when_empty:
            return SplitReasoning(None, self._unwrapped(text))
        if self.kept_in_content:
            return SplitReasoning(None, f"{self.openers[0]}{text}" if starts_in_reasoning else text)
        found = self.behind(starts_in_reasoning)._read(text, starts_in_reasoning, tool_markers)
        if not thinking and found.reasoning and not found.answer.strip():
            return SplitReasoning(None, found.reasoning, found.closed)
        return found._replace(answer=self._unwrapped(found.answer)) if self.answer else found

    def _read(self, text: str, starts_in_reasoning: bool | None, tool_markers: Sequence[str]) -> SplitReasoning:
        thoughts: list[str] = []
        inside = self.prompted if starts_in_reasoning is None else starts_in_reasoning
        position, closed = 0, True
        while (start := self._begin(text, position, inside)) is not None:
            end, closer = first_of(text, start, self.closers)
            closed = end >= 0
            if not closed:
                end, _ = first_of(text, start, tool_markers)
                end = len(text) if end < 0 else end
            thoughts.append(self._trimmed(text[start:end]))
            position, inside = self._after(text, end + len(closer)), False
            if not (closed and self.repeats):
                break
        if not thoughts:
            return SplitReasoning(None, text)
        return SplitReasoning("\n".join(filter(None, thoughts)), text[position:], closed)

    def _begin(self, text: str, position: int, inside: bool) -> int | None:
        """Where the reasoning begins that stands at `position`; None where none does."""
        start = blank_end(text, position)
        opener = marker_at(text, start, self.openers)
        if opener:
            return start + len(opener)
        bare_closer = position == 0 and marker_at(text, start, self.closers)
        return position if inside else start if bare_closer else None

    def _after(self, text: str, end: int) -> int:
        """Where the answer begins behind a closer: a second one straight after it is no part of it."""
        again = blank_end(text, end)
        return again + len(closer) if (closer := marker_at(text, again, self.closers)) else end

    def _trimmed(self, text: str) -> str:
        if self.trim is Trim.NONE:
            return text
        return text.strip() if self.trim is Trim.BOTH else text.rstrip()

    def _unwrapped(self, text: str) -> str:
        start = blank_end(text)
        for opener, closer in self.answer:
            if text.startswith(opener, start):
                body = text[start + len(opener) :]
                before, _, after = body.rpartition(closer) if closer in body else (body, "", "")
                return before.strip("\n") + after
        return text
