"""Waiting for another service: it says so once, and goes on as soon as the service answers."""

import asyncio

import httpx

from core.errors import QueueError
from core.logs import get_logger

log = get_logger("services")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0


async def wait_until_ready(url: str, what: str, *, limit_seconds: float | None = None) -> None:
    """Return when GET `url` answers with 200; `url` is a path that needs no token.

    Raises QueueError when that has not happened within the limit; None waits for as long as it takes.
    """
    loop = asyncio.get_running_loop()
    started, pause, told = loop.time(), FIRST_PAUSE_SECONDS, False
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as http:
        while not await answers(http, url):
            if limit_seconds is not None and loop.time() - started > limit_seconds:
                raise QueueError(f"{what} does not answer at {url} within {limit_seconds:g} seconds")
            if not told:
                log.info("waiting_for", what=what, url=url)
                told = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


async def answers(http: httpx.AsyncClient, url: str) -> bool:
    """Whether GET `url` is answered with 200."""
    try:
        return (await http.get(url)).status_code == 200
    except httpx.HTTPError:
        return False
