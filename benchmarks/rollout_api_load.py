"""A load of posts on one server that costs its sender little: whole requests over a few connections that stay open."""

import selectors
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

WAIT_SECONDS = 300


class Load(NamedTuple):
    """What it took to have all posts answered; seconds. `client_cpu` is the sender's own."""

    wall: float
    client_cpu: float


@dataclass
class Connection:
    """One connection: what is left to send of its request, and what has come of the answer."""

    socket: socket.socket
    unsent: memoryview
    answer: bytes = b""


def request(path: str, headers: dict[str, str], body: bytes) -> bytes:
    """A POST as it goes over the wire."""
    fields = {"Host": "127.0.0.1", **headers, "Content-Length": str(len(body))}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {text}" for name, text in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def post_all(port: int, requests: Iterable[bytes], connections: int) -> Load:
    """Send them all, each connection its next one when the last was answered. Raises RuntimeError where one is refused."""
    waiting = iter(requests)
    cpu, start = time.process_time(), time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for _ in range(connections):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ, connection := Connection(sock, memoryview(b"")))
            _send_next(selector, connection, waiting)
        while selector.get_map():
            ready = selector.select(WAIT_SECONDS)
            if not ready:
                raise RuntimeError(f"nothing was answered for {WAIT_SECONDS} s")
            for key, events in ready:
                if events & selectors.EVENT_WRITE:
                    _send(selector, key.data)
                if events & selectors.EVENT_READ and _answered(key.data):
                    _send_next(selector, key.data, waiting)
    return Load(time.perf_counter() - start, time.process_time() - cpu)


def _send_next(selector: selectors.BaseSelector, connection: Connection, waiting: Iterator[bytes]) -> None:
    following = next(waiting, None)
    if following is None:
        selector.unregister(connection.socket)
        connection.socket.close()
        return
    connection.unsent, connection.answer = memoryview(following), b""
    _send(selector, connection)


def _send(selector: selectors.BaseSelector, connection: Connection) -> None:
    try:
        while connection.unsent:
            connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
    except BlockingIOError:
        pass
    events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
    if selector.get_key(connection.socket).events != events:
        selector.modify(connection.socket, events, connection)


def _answered(connection: Connection) -> bool:
    """Whether the whole answer is there, which is a success."""
    part = connection.socket.recv(1 << 16)
    connection.answer += part
    head, end, body = connection.answer.partition(b"\r\n\r\n")
    if part and not end:
        return False
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    if not part or not head[9:12].startswith(b"2"):
        raise RuntimeError(f"a post was not accepted: {connection.answer[:300]!r}")
    return len(body) >= int(fields[b"content-length"])
