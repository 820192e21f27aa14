"""A conversation whose prompts only ever grow: prompt n+1 = prompt n + sampled ids n + bridge to the next turn.

Sampled ids are never decoded and encoded again. Where the template cannot be extended, or drops what it should keep,
the conversation is rendered anew and the fork is counted: a sample of its own begins there, and nothing is patched.
"""

import json
from collections.abc import Sequence
from itertools import pairwise

from core.types import Message, Role, TokenIds, ToolSpec, Turn
from tool_call_parsers.renderer import Renderer
from tool_call_parsers.retention import ThinkingRetention

__all__ = ["Conversation", "Renderer", "ThinkingRetention", "TokenSession", "count_forks", "extends", "history"]


class TokenSession:
    """The prompts of one conversation that is played here; holds nothing between turns but the count of forks."""

    def __init__(
        self,
        renderer: Renderer,
        tools: Sequence[ToolSpec] = (),
        retention: ThinkingRetention = ThinkingRetention.TEMPLATE,
    ) -> None:
        self.renderer, self.tools, self.retention, self.forks = renderer, tuple(tools), retention, 0

    def first(self, messages: Sequence[Message]) -> TokenIds:
        """The prompt of the first turn. Raises RenderError."""
        return tuple(self.renderer.render(self._kept(messages), self.tools))

    def next(self, messages: Sequence[Message], turns: Sequence[Turn]) -> TokenIds:
        """The prompt after `turns` (at least one) of a conversation that began with `messages`. Raises RenderError."""
        last, said = turns[-1], history(messages, turns)
        added = self._added(last, said)
        if added is not None:
            return (*last.prompt_ids, *last.completion_ids, *added)
        self.forks += 1
        return self.first(said)

    def prompt(self, messages: Sequence[Message], turns: Sequence[Turn]) -> TokenIds:
        """The prompt of the next turn, whether it is the first or a later one."""
        return self.next(messages, turns) if turns else self.first(messages)

    def _added(self, last: Turn, said: Sequence[Message]) -> TokenIds | None:
        """What follows the last turn; None where a fork is due."""
        if self.retention is ThinkingRetention.TOOL_CYCLE and _cycle_ends(said, len(last.observations)):
            return None
        reasoned = any(message.reasoning is not None for message in said)
        bridge = self.renderer.bridge(last.message, last.observations, self.tools, reasoned=reasoned)
        if bridge is None or (bridge.drops_thinking and self.retention is ThinkingRetention.TEMPLATE):
            return None
        return bridge.after(last.completion_ids, self.renderer.eos_ids)

    def _kept(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages, without the reasoning that is to be forgotten."""
        if self.retention is not ThinkingRetention.TOOL_CYCLE:
            return messages
        last = max((index for index, message in enumerate(messages) if message.role is Role.USER), default=-1)
        return [
            message.model_copy(update={"reasoning": None}) if index < last and message.reasoning is not None else message
            for index, message in enumerate(messages)
        ]


class Conversation:
    """The prompts of a conversation that somebody else keeps and sends whole, as OpenAI's clients do.

    What was sampled is found again by what it says, not by ids, so that a client may rewrite those. A client that
    edits what was said, or offers other tools, forks.
    """

    def __init__(self, renderer: Renderer, retention: ThinkingRetention = ThinkingRetention.TEMPLATE) -> None:
        self.renderer, self.retention, self.forks = renderer, retention, 0
        self._opening: tuple[Message, ...] = ()
        self._tools: tuple[ToolSpec, ...] = ()
        self._turns: list[Turn] = []

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> TokenIds:
        """The prompt of the next turn after all of `messages`. Raises RenderError."""
        session = TokenSession(self.renderer, tools, self.retention)
        played = self._continued(messages, tools)
        if played is not None:
            prompt = session.next(self._opening, played)
            self.forks += session.forks
            self._turns = played if not session.forks else []
        else:
            self.forks += bool(self._turns)
            prompt, self._turns = session.first(messages), []
        if not self._turns:
            self._opening = tuple(messages)
        self._tools = tuple(tools)
        return prompt

    def sampled(self, prompt_ids: TokenIds, completion_ids: TokenIds, message: Message) -> None:
        """Remember the turn that was sampled from the last prompt."""
        logprobs = (0.0,) * len(completion_ids)
        self._turns.append(Turn(prompt_ids=prompt_ids, completion_ids=completion_ids, logprobs=logprobs, message=message))

    def _continued(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> list[Turn] | None:
        """The turns with what was answered to the last one; None where this is not the same conversation."""
        known = history(self._opening, self._turns)
        if not self._turns or tuple(tools) != self._tools or len(messages) <= len(known):
            return None
        forgetful = self.retention is not ThinkingRetention.TEMPLATE
        if not all(_says(theirs, mine, forgetful=forgetful) for mine, theirs in zip(known, messages, strict=False)):
            return None
        answered = self._turns[-1].model_copy(update={"observations": tuple(messages[len(known) :])})
        return [*self._turns[:-1], answered]


def history(messages: Sequence[Message], turns: Sequence[Turn]) -> tuple[Message, ...]:
    """The conversation so far, as messages."""
    return (*messages, *(spoken for turn in turns for spoken in (turn.message, *turn.observations)))


def count_forks(turns: Sequence[Turn]) -> int:
    """Turns whose prompt does not begin with the turn before it: each starts a sample of its own."""
    return sum(not extends(before, after) for before, after in pairwise(turns))


def extends(before: Turn, after: Turn) -> bool:
    """Whether the prompt of `after` begins with prompt and completion of `before`, id by id."""
    whole = (*before.prompt_ids, *before.completion_ids)
    return after.prompt_ids[: len(whole)] == whole


def _cycle_ends(said: Sequence[Message], new: int) -> bool:
    """Whether one of the last `new` messages is a user's, and there is reasoning since the user message before."""
    before = said[: len(said) - new]
    since = next((index for index, one in reversed(list(enumerate(before))) if one.role is Role.USER), 0)
    asked = any(message.role is Role.USER for message in said[len(before) :])
    return asked and any(message.reasoning is not None for message in before[since:])


def _says(theirs: Message, mine: Message, *, forgetful: bool) -> bool:
    """Whether a message that came back is the one that was said; `forgetful`: clients may leave reasoning out.

    Ids do not matter, and arguments are compared as data: a client may write their JSON anew.
    """
    if theirs.reasoning != mine.reasoning and not (forgetful and theirs.reasoning is None):
        return False
    return _words(theirs) == _words(mine)


def _words(message: Message) -> tuple[object, ...]:
    return message.role, message.content, [(call.name, _canonical(call.arguments)) for call in message.tool_calls]


def _canonical(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments
