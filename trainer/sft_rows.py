"""Rows of supervised learning: conversations as token ids, with a mask of what the assistant wrote."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from core.types import Message, Role, TokenIds, ToolSpec, Turn
from tool_call_parsers.rendering import Renderer, TokenSession


class SftRow(NamedTuple):
    """A conversation, or a part of one: token_ids (T) and whether each of them is learnt (T)."""

    token_ids: TokenIds
    loss_mask: tuple[bool, ...]


def conversation_rows(
    renderer: Renderer, messages: Sequence[Message], tools: Sequence[ToolSpec], spoken: Sequence[str]
) -> list[SftRow]:
    """The rows of a conversation, with the token ids that an episode with the same words would have.

    `spoken` are the texts that the assistant sampled, one a message of its own: each is encoded by itself and the rest
    is the template's, as in TokenSession. One row, and one more wherever the template renders what was said anew.
    Raises RenderError.
    """
    first = next(index for index, message in enumerate(messages) if message.role is Role.ASSISTANT)
    opening, rest = messages[:first], messages[first:]
    session, turns = TokenSession(renderer, tools), list[Turn]()
    rows: list[SftRow] = []
    ids: TokenIds = ()
    mask: tuple[bool, ...] = ()
    for text, (message, answers) in zip(spoken, _turns(rest), strict=True):
        prompt = session.prompt(opening, turns)
        completion = (*renderer.encode(text), renderer.eos_ids[0])
        if prompt[: len(ids)] != ids:
            rows.append(SftRow(ids, mask))
            mask = ()
        mask += (False,) * (len(prompt) - len(mask)) + (True,) * len(completion)
        ids = (*prompt, *completion)
        turns.append(
            Turn(
                prompt_ids=prompt,
                completion_ids=completion,
                logprobs=(0.0,) * len(completion),
                message=message,
                observations=tuple(answers),
            )
        )
    return [*rows, SftRow(ids, mask)]


def batches(rows: Iterable[SftRow], tokens: int, window: int = 256) -> Iterator[list[SftRow]]:
    """Rows of similar length together, `tokens` a batch with padding; a window keeps the order roughly."""
    waiting: list[SftRow] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == window:
            yield from _pack(waiting, tokens)
            waiting = []
    yield from _pack(waiting, tokens)


def _pack(rows: list[SftRow], tokens: int) -> Iterator[list[SftRow]]:
    packs: list[list[SftRow]] = [[]]
    for row in sorted(rows, key=lambda row: len(row.token_ids)):
        if packs[-1] and (len(packs[-1]) + 1) * len(row.token_ids) > tokens:
            packs.append([])
        packs[-1].append(row)
    # short rows first would be a curriculum by length; a fixed stride mixes them without a random state
    order = sorted(range(len(packs)), key=lambda number: (number * 7919) % len(packs)) if packs[0] else []
    yield from (packs[number] for number in order)


def _turns(messages: Sequence[Message]) -> Iterator[tuple[Message, list[Message]]]:
    spoken: Message | None = None
    answers: list[Message] = []
    for message in messages:
        if message.role is Role.ASSISTANT:
            if spoken is not None:
                yield spoken, answers
            spoken, answers = message, []
        else:
            answers.append(message)
    if spoken is not None:
        yield spoken, answers
