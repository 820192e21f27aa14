"""Answers that are worth keeping: the same question is worked on once, even when several ask at the same time."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """The last `size` answers by key. A question that failed is asked again the next time."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._answers: OrderedDict[str, T] = OrderedDict()
        self._asking: dict[str, asyncio.Lock] = {}

    async def get(self, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer for `key`, from `ask` where it is not known."""
        lock = self._asking.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                if key not in self._answers:
                    self._answers[key] = await ask()
                self._answers.move_to_end(key)
                while len(self._answers) > self._size:
                    self._answers.popitem(last=False)
                return self._answers[key]
        finally:
            if not lock.locked():
                self._asking.pop(key, None)

    def forget(self) -> None:
        """Start afresh."""
        self._answers.clear()
