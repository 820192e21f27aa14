"""Length-prefixed frames, the only language between the host, the fork server and its children.

Host and server: `>II` (length, channel), then the payload. Channel 0 is the server's own and carries JSON; every other
channel belongs to one child and is relayed unread. Server and child: `>I` (length), then the payload, which is JSON.
"""

import json
import socket
import struct

OUTER = struct.Struct(">II")
INNER = struct.Struct(">I")
MAX_FRAME = 1 << 20


class Channel:
    """One child's end: blocking, one frame at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def receive(self) -> dict:
        """The next request. Raises EOFError when the server hung up."""
        (length,) = INNER.unpack(self._exactly(INNER.size))
        return json.loads(self._exactly(length))

    def send(self, message: dict) -> None:
        """Answer; an answer that is too long or no JSON is replaced by an error."""
        try:
            body = json.dumps(message, allow_nan=True).encode()
        except (TypeError, ValueError, RecursionError) as error:
            body = json.dumps({"error": f"the answer is no JSON: {type(error).__name__}"}).encode()
        if len(body) > MAX_FRAME:
            body = json.dumps({"error": f"the answer has {len(body)} bytes, more than {MAX_FRAME}"}).encode()
        self._sock.sendall(INNER.pack(len(body)) + body)

    def ask(self, message: dict) -> dict:
        """Send a question to the host in the middle of a request and wait for its answer."""
        self.send(message)
        return self.receive()

    def _exactly(self, length: int) -> bytes:
        parts = []
        while length:
            part = self._sock.recv(length)
            if not part:
                raise EOFError
            parts.append(part)
            length -= len(part)
        return b"".join(parts)
