"""An inference server that answers at once, for the benchmark of the agent loop: `python -m benchmarks.instant_server`.

Reads one line of JSON from standard input: {path: [an answer that goes on, the answer that ends an episode, turns]}.
Prints its port. Ends with its standard input. Which turn a request is for it sees from what the request holds.
"""

import asyncio
import json
import sys
from collections import Counter


class Exchange(asyncio.Protocol):
    """One connection: whole requests in, prepared answers out."""

    def __init__(self, answers: dict[str, list], played: Counter[bytes]) -> None:
        self._answers, self._played, self._got = answers, played, bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._got += data
        while (split := self._got.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._got[:split])
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            if len(self._got) < split + 4 + length:
                return
            body = bytes(self._got[split + 4 : split + 4 + length])
            del self._got[: split + 4 + length]
            self._transport.write(self._answer(head.split(b" ", 2)[1].decode(), body))

    def _answer(self, path: str, body: bytes) -> bytes:
        more, last, turns = self._answers[path]
        said = more if self._turn(body) < turns - 1 else last
        return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(said), said)

    def _turn(self, body: bytes) -> int:
        """Which turn a request is for: chats hold the answers so far, token requests the name of their episode."""
        _, found, after = body.partition(b'"session_id"')
        if not found:
            return body.count(b'"tool_call_id"')
        name = after.split(b'"', 2)[1]
        self._played[name] += 1
        return self._played[name] - 1


async def serve() -> None:
    told = json.loads(await asyncio.to_thread(sys.stdin.readline))
    answers = {
        path: [json.dumps(more).encode(), json.dumps(last).encode(), turns] for path, (more, last, turns) in told.items()
    }
    played: Counter[bytes] = Counter()
    server = await asyncio.get_running_loop().create_server(lambda: Exchange(answers, played), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve())
