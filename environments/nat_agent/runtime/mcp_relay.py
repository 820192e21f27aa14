"""Carries what the MCP stand-ins of one evaluation are asked to the host, and the host's answers back."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from runtime.frames import Channel

MAX_QUESTION = 1 << 16


@asynccontextmanager
async def relayed(channel: Channel, path: Path) -> AsyncIterator[None]:
    """While the block runs, a line of JSON sent to the socket at `path` is a question to the host.

    Where the folder of `path` is not there, no stand-in is installed and nobody is listened to.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            question = json.loads(await reader.readline())
            writer.write(json.dumps(channel.ask({"mcp": question})).encode() + b"\n")
            await writer.drain()
        except (ValueError, OSError):
            pass  # the stand-in says that nobody answered
        finally:
            writer.close()

    async with AsyncExitStack() as opened:
        with suppress(FileNotFoundError):
            server = await asyncio.start_unix_server(serve, path, limit=MAX_QUESTION)
            opened.callback(server.close)
        yield
