"""Finds tokens whose keys and values are already known: the turn before, the group's prompt, the system prompt.

A prefix lives in a row of the slab while its request is decoded, and is kept aside afterwards until newer ones need
the room. Everything here belongs to one policy version; `clear` when the weights change.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

BLOCK = 16
"""Tokens a lookup key covers; a match is then extended token by token."""


@dataclass(eq=False)
class Prefix:
    """Tokens whose keys and values are in slab row `row`, or in `saved` (see Slab.save)."""

    tokens: list[int]
    row: int | None = None
    saved: Any = None
    session_id: str | None = None
    keys: list[int] = field(default_factory=list)


class PrefixCache:
    """Prefixes by their first tokens; kept ones are dropped oldest use first beyond `capacity_tokens`."""

    def __init__(self, capacity_tokens: int) -> None:
        self._capacity = capacity_tokens
        self._index: dict[int, dict[Prefix, None]] = {}
        self._kept: OrderedDict[Prefix, None] = OrderedDict()
        self._sessions: dict[str, Prefix] = {}
        self.tokens = 0
        """Tokens kept aside."""

    def add(self, prefix: Prefix) -> None:
        """Let others find the tokens of a prefix; call again after it grew."""
        known = len(prefix.keys)
        prefix.keys = block_keys(prefix.tokens)
        for key in prefix.keys[known:]:
            self._index.setdefault(key, {})[prefix] = None

    def find(self, tokens: Sequence[int], keys: Sequence[int]) -> tuple[Prefix | None, int]:
        """The prefix that shares the most first tokens, and how many; `keys` are `block_keys(tokens)`."""
        best: Prefix | None = None
        for key in keys:
            sharing = self._index.get(key)
            if not sharing:
                break
            best = next(reversed(sharing))
        return (best, shared_length(best.tokens, tokens)) if best is not None else (None, 0)

    def keep(self, prefix: Prefix, saved: Any) -> None:
        """Move a prefix out of its row. It replaces what its session kept before."""
        prefix.row, prefix.saved = None, saved
        self.add(prefix)
        if prefix.session_id is not None:
            before = self._sessions.get(prefix.session_id)
            if before is not None:
                self.drop(before)
            self._sessions[prefix.session_id] = prefix
        self._kept[prefix] = None
        self.tokens += len(prefix.tokens)
        while self.tokens > self._capacity:
            self.drop(next(iter(self._kept)))

    def touch(self, prefix: Prefix) -> None:
        """Note that a kept prefix was of use."""
        if prefix in self._kept:
            self._kept.move_to_end(prefix)

    def drop(self, prefix: Prefix) -> None:
        """Forget a prefix, wherever it lives."""
        for key in prefix.keys:
            sharing = self._index[key]
            del sharing[prefix]
            if not sharing:
                del self._index[key]
        prefix.keys = []
        if prefix in self._kept:
            del self._kept[prefix]
            self.tokens -= len(prefix.tokens)
        if prefix.session_id is not None and self._sessions.get(prefix.session_id) is prefix:
            del self._sessions[prefix.session_id]

    def clear(self) -> None:
        """Forget everything; prefixes that still live in a row must not be added again."""
        self._index.clear()
        self._kept.clear()
        self._sessions.clear()
        self.tokens = 0


def block_keys(tokens: Sequence[int]) -> list[int]:
    """One key for each full block of first tokens; each depends on all tokens before it."""
    keys: list[int] = []
    key = 0
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        key = hash((key, tuple(tokens[end - BLOCK : end])))
        keys.append(key)
    return keys


def shared_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many first tokens two lists share. Never trusts a key: two texts may hash alike."""
    same, differ = 0, min(len(left), len(right)) + 1
    while differ - same > 1:  # slices compare much faster than a loop over tokens
        middle = (same + differ) // 2
        if left[same:middle] == right[same:middle]:
            same = middle
        else:
            differ = middle
    return same
