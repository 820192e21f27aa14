"""Ids for groups that come without one, so that a post that is sent again counts once.

Atropos environments send a group up to three times when an answer does not arrive. What they send is the same to the
byte, so the id is made of its content, and of how often that content has been answered before: two groups that are
the same are two groups, the same post again is not.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import uuid4

from core.clock import Clock
from services.rollout_api.base import Parcel
from services.rollout_api.compression import digest_of

REMEMBERED = 50_000  # contents
AFTER_RESTART_SECONDS = 60.0  # for so long a known content may be a post whose answer the last process did not send


class Posts:
    """Which contents were posted how often. Kept in memory: after a restart, what comes again is a repetition at first."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._started = clock, clock.monotonic()
        self._counts: OrderedDict[bytes, int] = OrderedDict()
        self._unanswered: OrderedDict[bytes, None] = OrderedDict()

    async def put(self, parcel: Parcel, put_group: Callable[[Parcel], Awaitable[bool]]) -> bytes:
        """Queue the parcel under an id; what to call `unanswered` with where its answer does not arrive."""
        content = digest_of(parcel.body)
        number = self._counts.pop(content, 0)
        self._counts[content] = number + 1
        if len(self._counts) > REMEMBERED:
            self._counts.popitem(last=False)
        parcel = replace(parcel, digest=content, id=f"{parcel.dialect}-{content.hex()}-{number}")
        try:
            first = await put_group(parcel)
            if not first and not self._may_be_again(content):
                await put_group(replace(parcel, id=f"{parcel.dialect}-{content.hex()}-{uuid4().hex[:12]}"))
        except BaseException:
            self.unanswered(content)
            raise
        self._unanswered.pop(content, None)
        return content

    def unanswered(self, content: bytes) -> None:
        """The answer to a post of that content was not heard: the next one may be the same post."""
        self._counts[content] = max(0, self._counts.get(content, 1) - 1)
        self._unanswered[content] = None
        if len(self._unanswered) > REMEMBERED:
            self._unanswered.popitem(last=False)

    def _may_be_again(self, content: bytes) -> bool:
        return content in self._unanswered or self._clock.monotonic() - self._started < AFTER_RESTART_SECONDS
