"""A server on loopback that keeps Modal's contract as far as natgym asks for it: the real client speaks to it.

A sandbox of it is a place behind bubblewrap, and its commands are processes there. What may go wrong with Modal is told
to it beforehand (`refuse_creations`) or done to a sandbox that runs (`finish`, `break_streams`).
"""

# the methods of a service have the names that the service gave them
# ruff: noqa: N802

import asyncio
import os
import shutil
import socket
import subprocess
import threading
import time
from base64 import urlsafe_b64encode
from collections import deque
from dataclasses import dataclass, field
from functools import cache
from typing import IO
from uuid import uuid4

from grpclib import GRPCError, Status
from grpclib.const import Handler
from grpclib.server import Server, Stream
from modal_proto import api_pb2, task_command_router_pb2
from modal_proto.api_grpc import ModalClientBase
from modal_proto.task_command_router_grpc import TaskCommandRouterBase

from backends.base import SandboxSpec
from backends.bubblewrap import walls
from backends.memory_files import MemoryFiles
from backends.staging import UNPRIVILEGED
from core.errors import MissingRuntime

READ_BYTES = 1 << 18
Result = api_pb2.GenericResult


@dataclass
class Output:
    """What a command wrote to one stream so far."""

    data: bytearray = field(default_factory=bytearray)
    ended: bool = False


@dataclass
class Command:
    """A running command of a sandbox."""

    process: "subprocess.Popen[bytes]"
    outputs: dict[int, Output]
    changed: asyncio.Condition
    collectors: list[threading.Thread] = field(default_factory=list)
    written: int = 0


@dataclass
class Container:
    """A sandbox of the server."""

    id: str
    request: api_pb2.SandboxCreateV2Request
    created_at: float
    commands: dict[str, Command] = field(default_factory=dict)
    status: int = Result.GENERIC_STATUS_UNSPECIFIED
    finished: asyncio.Event = field(default_factory=asyncio.Event)


class Modal(ModalClientBase, TaskCommandRouterBase):
    """Both services on one port. Runs in a thread of its own; the methods below `url` may be called from any."""

    def __init__(self) -> None:
        self.containers: dict[str, Container] = {}
        self.refusals: deque[GRPCError] = deque()
        self.broken_reads = 0
        self.nested_namespaces = True
        self.url = ""
        self._loop = asyncio.new_event_loop()

    def refuse_creations(self, status: Status, message: str, times: int = 1) -> None:
        """Answer the next creations with that error."""
        self.refusals.extend(GRPCError(status, message) for _ in range(times))

    def finish(self, sandbox: str, status: int) -> None:
        """End a sandbox, for that reason."""
        asyncio.run_coroutine_threadsafe(self._finish(self.containers[sandbox], status), self._loop).result()

    def break_streams(self, times: int) -> None:
        """Answer the next reads of an output, and those that wait, with UNAVAILABLE."""
        asyncio.run_coroutine_threadsafe(self._break(times), self._loop).result()

    @property
    def running(self) -> list[Container]:
        """The sandboxes that have not ended."""
        return [one for one in self.containers.values() if not one.status]

    def serve(self) -> None:
        """Serve until the process ends."""
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        server = Server([self])
        await server.start(sock=listening)
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        await server.wait_closed()

    def __mapping__(self) -> dict[str, Handler]:
        return {**ModalClientBase.__mapping__(self), **TaskCommandRouterBase.__mapping__(self)}

    async def ClientHello(self, stream: Stream) -> None:
        await _reply(stream, api_pb2.ClientHelloResponse())

    async def EnvironmentGetOrCreate(self, stream: Stream) -> None:
        settings = api_pb2.EnvironmentSettings(image_builder_version="2025.06")
        metadata = api_pb2.EnvironmentMetadata(name="main", settings=settings)
        await _reply(stream, api_pb2.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=metadata))

    async def AppGetOrCreate(self, stream: Stream) -> None:
        await _reply(stream, api_pb2.AppGetOrCreateResponse(app_id="ap-1"))

    async def ImageGetOrCreate(self, stream: Stream) -> None:
        request = await stream.recv_message()
        if any("no-such-image" in line for line in request.image.dockerfile_commands):
            failed = Result(status=Result.GENERIC_STATUS_FAILURE, exception="manifest unknown")
            await stream.send_message(api_pb2.ImageGetOrCreateResponse(image_id="im-0", result=failed))
            return
        done = Result(status=Result.GENERIC_STATUS_SUCCESS)
        await stream.send_message(api_pb2.ImageGetOrCreateResponse(image_id="im-1", result=done))

    async def AuthTokenGet(self, stream: Stream) -> None:
        await _reply(stream, api_pb2.AuthTokenGetResponse(token=_jwt()))

    async def SandboxCreateV2(self, stream: Stream) -> None:
        request = await stream.recv_message()
        if self.refusals:
            raise self.refusals.popleft()
        container = Container(f"sb-{uuid4().hex[:12]}", request, time.monotonic())
        self.containers[container.id] = container
        access = api_pb2.CommandRouterAccess(url=self.url, jwt=_jwt())
        await stream.send_message(
            api_pb2.SandboxCreateV2Response(sandbox_id=container.id, task_id=container.id, command_router_access=access)
        )

    async def SandboxWaitV2(self, stream: Stream) -> None:
        request = await stream.recv_message()
        container = self._container(request.sandbox_id)
        try:
            async with asyncio.timeout(request.timeout):
                await container.finished.wait()
        except TimeoutError:
            pass
        await stream.send_message(api_pb2.SandboxWaitResponse(result=Result(status=container.status)))  # type: ignore[arg-type]

    async def SandboxTerminateV2(self, stream: Stream) -> None:
        request = await stream.recv_message()
        await self._finish(self._container(request.sandbox_id), Result.GENERIC_STATUS_TERMINATED)
        await stream.send_message(api_pb2.SandboxTerminateResponse())

    async def SandboxListV2(self, stream: Stream) -> None:
        request = await stream.recv_message()
        wanted = {tag.tag_name: tag.tag_value for tag in request.tags}
        found = [one for one in self.running if wanted.items() <= _tags(one).items()]
        if request.before_timestamp:
            found = []  # one page
        infos = [api_pb2.SandboxInfo(id=one.id, created_at=time.time(), tags=one.request.tags) for one in found]
        await stream.send_message(api_pb2.SandboxListResponse(sandboxes=infos))

    async def SandboxTagsGetV2(self, stream: Stream) -> None:
        request = await stream.recv_message()
        await stream.send_message(api_pb2.SandboxTagsGetResponse(tags=self._container(request.sandbox_id).request.tags))

    async def TaskExecStart(self, stream: Stream) -> None:
        request = await stream.recv_message()
        container = self._container(request.task_id)
        if request.exec_id not in container.commands:
            container.commands[request.exec_id] = self._start(list(request.command_args))
        await stream.send_message(task_command_router_pb2.TaskExecStartResponse())

    async def TaskExecStdinWrite(self, stream: Stream) -> None:
        request = await stream.recv_message()
        command = self._command(request)
        assert command.process.stdin is not None
        data = request.data[command.written - request.offset :]
        command.written += len(data)
        try:
            await asyncio.to_thread(_write, command.process.stdin, data)
            if request.eof:
                command.process.stdin.close()
        except (BrokenPipeError, ValueError):
            raise GRPCError(Status.FAILED_PRECONDITION, "the command has ended") from None
        await stream.send_message(task_command_router_pb2.TaskExecStdinWriteResponse())

    async def TaskExecStdioRead(self, stream: Stream) -> None:
        request = await stream.recv_message()
        command = self._command(request)
        output, offset = command.outputs[request.file_descriptor], request.offset
        while True:
            async with command.changed:
                while not (self.broken_reads or output.ended or len(output.data) > offset):
                    await command.changed.wait()
            if self.broken_reads:
                self.broken_reads -= 1
                raise GRPCError(Status.UNAVAILABLE, "the worker is being moved")
            data = bytes(output.data[offset : offset + READ_BYTES])
            if not data:
                return
            offset += len(data)
            await stream.send_message(task_command_router_pb2.TaskExecStdioReadResponse(data=data))

    async def TaskExecWait(self, stream: Stream) -> None:
        command = self._command(await stream.recv_message())
        code = await asyncio.to_thread(command.process.wait)
        await stream.send_message(task_command_router_pb2.TaskExecWaitResponse(code=code))

    def _container(self, name: str) -> Container:
        if name not in self.containers:
            raise GRPCError(Status.NOT_FOUND, f"no sandbox {name}")
        return self.containers[name]

    def _command(self, request: object) -> Command:
        container = self._container(request.task_id)  # type: ignore[attr-defined]
        if container.status:
            raise GRPCError(Status.NOT_FOUND, "the sandbox has ended")
        return container.commands[request.exec_id]  # type: ignore[attr-defined]

    def _start(self, argv: list[str]) -> Command:
        process = within_walls(argv, nested_namespaces=self.nested_namespaces)
        outputs = {
            task_command_router_pb2.TASK_EXEC_STDIO_FILE_DESCRIPTOR_STDOUT: Output(),
            task_command_router_pb2.TASK_EXEC_STDIO_FILE_DESCRIPTOR_STDERR: Output(),
        }
        command = Command(process, outputs, asyncio.Condition())
        for pipe, output in zip((process.stdout, process.stderr), outputs.values(), strict=True):
            assert pipe is not None
            collector = threading.Thread(target=self._collect, args=(pipe, command, output), daemon=True)
            command.collectors.append(collector)
            collector.start()
        return command

    def _collect(self, pipe: IO[bytes], command: Command, output: Output) -> None:
        while data := os.read(pipe.fileno(), READ_BYTES):
            asyncio.run_coroutine_threadsafe(self._add(command, output, data), self._loop).result()
        asyncio.run_coroutine_threadsafe(self._add(command, output, b""), self._loop).result()
        pipe.close()

    async def _add(self, command: Command, output: Output, data: bytes) -> None:
        async with command.changed:
            output.data += data
            output.ended = output.ended or not data
            command.changed.notify_all()

    async def _break(self, times: int) -> None:
        self.broken_reads = times
        for command in [command for one in self.running for command in one.commands.values()]:
            async with command.changed:
                command.changed.notify_all()

    async def _finish(self, container: Container, status: int) -> None:
        if container.status:
            return
        container.status = status
        for command in container.commands.values():
            await asyncio.to_thread(_end, command)
        container.finished.set()


Modal.__abstractmethods__ = frozenset()  # what natgym does not ask for is not there


def within_walls(argv: list[str], *, nested_namespaces: bool) -> "subprocess.Popen[bytes]":
    """A command in a place of its own, as an ordinary user there, with a first process that is none of ours."""
    program = shutil.which("bwrap")
    if program is None:
        raise GRPCError(Status.INTERNAL, "bubblewrap is not installed")
    user = UNPRIVILEGED if os.geteuid() == 0 else None
    spec = SandboxSpec(nested_namespaces=nested_namespaces)
    with MemoryFiles() as memory:
        options = [word for option in walls(spec, {}, memory.file) for word in option if word != "--as-pid-1"]
        return subprocess.Popen(
            [program, *options, "--", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={},
            pass_fds=memory.fds,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )


@cache
def modal_server() -> Modal:
    """The one server of this process; Modal's client speaks to it from now on. Raises MissingRuntime."""
    if shutil.which("bwrap") is None:
        raise MissingRuntime("the stand-in for Modal needs bubblewrap: apt-get install bubblewrap")
    server = Modal()
    threading.Thread(target=server.serve, daemon=True).start()
    while not server.url:
        time.sleep(0.01)
    os.environ.update(MODAL_SERVER_URL=server.url, MODAL_TOKEN_ID="ak-test", MODAL_TOKEN_SECRET="as-test")
    return server


def _end(command: Command) -> None:
    command.process.kill()
    command.process.wait()
    for collector in command.collectors:
        collector.join()
    if command.process.stdin is not None:
        command.process.stdin.close()


def _write(pipe: object, data: bytes) -> None:
    while data:
        data = data[pipe.write(data) :]  # type: ignore[attr-defined]


async def _reply(stream: Stream, message: object) -> None:
    await stream.recv_message()
    await stream.send_message(message)


def _tags(container: Container) -> dict[str, str]:
    return {tag.tag_name: tag.tag_value for tag in container.request.tags}


def _jwt() -> str:
    parts = (b'{"alg":"none"}', f'{{"exp":{int(time.time()) + 86_400}}}'.encode(), b"signature")
    return ".".join(urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
