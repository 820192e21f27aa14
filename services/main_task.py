"""The one asynchronous task of a command, ended by Ctrl-C and SIGTERM alike: what it holds is freed first."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


class Interrupted(KeyboardInterrupt):
    """A signal ended the command after it had cleaned up."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__()


def run_main(main: Coroutine[object, None, T]) -> T:
    """The task's result. Raises Interrupted where a signal ended it; a second signal cuts its cleaning up short."""
    received: list[int] = []

    async def supervised() -> T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None

        def end(number: int) -> None:
            received.append(number)
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end, number)
        return await main

    try:
        return asyncio.run(supervised())
    except asyncio.CancelledError:
        if not received:
            raise
    raise Interrupted(received[0])
