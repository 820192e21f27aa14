"""What a chat template adds to a turn that was sampled: from its end-of-turn token to the next generation prompt.

Found by difference: a short conversation with a stand-in for the turn is rendered with and without the new messages.
The stand-in has the turn's calls by id and name, because templates name them in their answers; what the turn said is
never rendered, so it is never encoded again.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from core.types import JsonObject, Message, TokenIds
from tool_call_parsers.chat_template import RenderError
from tool_call_parsers.shield import Offered, Shield, Spoken

ASK: JsonObject = {"role": "user", "content": "."}
SAID, THOUGHT = "zqsaidqz", "zqthoughtqz"
"""Words that stand for what a turn said and thought; no template spells them."""

Shielded = Callable[[Sequence[Spoken], Sequence[Offered]], Shield]
Encode = Callable[[Shield, str], list[int]]


class Bridge(NamedTuple):
    """Ids from the end of a turn, through new messages, to the next generation prompt."""

    ids: TokenIds
    closes: bool
    """The first id closes the turn; else it opens the next message, as GLM's `<|observation|>` does."""
    drops_thinking: bool
    """The template would drop from the turn what was thought in it, or what the generation prompt opened."""

    def after(self, completion_ids: TokenIds, eos_ids: Sequence[int]) -> TokenIds | None:
        """What follows these sampled ids; None where they ended with a token that the template does not go on from."""
        last = completion_ids[-1] if completion_ids else None
        if last not in eos_ids:
            return self.ids
        return self.ids[1:] if self.closes or last == self.ids[0] else None


class Ends(NamedTuple):
    """How turns end: the texts of end-of-turn tokens, and a pattern of every control token."""

    eos: tuple[str, ...]
    control: re.Pattern[str]


class _Texts(NamedTuple):
    """A stand-in conversation, rendered: its first message, the turn after it, and all with the new messages."""

    asked: str
    prompt: str
    before: str
    after: str


class _Anchor(NamedTuple):
    start: int
    closes: bool


def find_bridge(shield: Shield, count: int, ends: Ends, encode: Encode) -> Bridge | None:
    """The bridge of a shielded stand-in conversation of `count` messages; None where there is none to be had."""
    try:
        texts = _Texts(shield.text(1, False), shield.text(1, True), shield.text(2, False), shield.text(count, True))
    except RenderError:
        return None
    end = _end_of_turn(texts, ends) if texts.after.startswith(texts.asked) else None
    anchor = _anchor(texts.after, end, ends) if end is not None else None
    if anchor is None:
        return None
    forgets = THOUGHT in texts.before and THOUGHT not in texts.after
    drops = forgets or not texts.after.startswith(texts.prompt)
    return Bridge(tuple(encode(shield, texts.after[anchor.start :])), anchor.closes, drops)


def stand_ins(message: Message, *, reasoned: bool) -> tuple[JsonObject, JsonObject]:
    """Turns with the calls of `message` and nothing else of it: one that says something, and one that only calls.

    Some templates refuse a turn that says something and calls, or put what it says behind the answers.
    """
    calls: list[JsonObject] = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": {}}} for call in message.tool_calls
    ]
    rest: JsonObject = {
        **({"reasoning_content": THOUGHT} if reasoned else {}),
        **({"tool_calls": list(calls)} if calls else {}),
    }
    return {"role": "assistant", "content": SAID, **rest}, {"role": "assistant", "content": "", **rest}


def _end_of_turn(texts: _Texts, ends: Ends) -> int | None:
    """Where the turn ends in `after`, although the template may render what stands before its words differently."""
    before, after = texts.before, texts.after
    if after.startswith(before):
        return len(before)
    said, kept = before.find(SAID), after.find(SAID)
    if min(said, kept) < 0:
        return None
    tail, start = before[said:], kept
    if after.startswith(tail, start):
        return start + len(tail)
    closer = _last(ends.control, tail)  # the last turn of a conversation may be closed differently: <|return|>, <|end|>
    if closer is None or not after.startswith(tail[: closer.start()], start):
        return None
    other = ends.control.match(after, start + closer.start())
    return other.end() if other else None


def _anchor(after: str, end: int, ends: Ends) -> _Anchor | None:
    """Where the bridge begins: at an end token before `end`, at one after it, or at any control token before it."""
    closed = _closer(after[:end], ends.eos)
    if closed is not None:
        return _Anchor(closed, True)
    following = end + len(after[end:]) - len(after[end:].lstrip())
    if following == end and after.startswith(ends.eos, end):
        return _Anchor(end, False)
    last = _last(ends.control, after[:end])
    return _Anchor(last.start(), True) if last is not None and not after[last.end() : end].strip() else None


def _closer(text: str, closers: Sequence[str]) -> int | None:
    """Where the token stands that closes a text, if only white space follows it."""
    start, closer = max(((text.rfind(closer), closer) for closer in closers if closer), default=(-1, ""))
    return start if start >= 0 and not text[start + len(closer) :].strip() else None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return max(pattern.finditer(text), key=lambda match: match.start(), default=None)
