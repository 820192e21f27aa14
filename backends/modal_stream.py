"""The stream to an agent in a Modal sandbox, and what Modal's errors mean.

The agent is one exec that lives as long as the sandbox: Modal itself cannot kill a command that it runs, buffers without a
bound, and needs four calls for each command where the agent needs one.
"""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from zlib import compress

import modal
from modal.container_process import ContainerProcess

from backends.agent_bundle import FLAGS, agent_source
from backends.base import BackendUnavailable, CapacityExhausted, Cause, ImageError, QuotaExceeded, RateLimited, SandboxLost
from backends.confined import MACHINES, namespace_filter
from backends.seccomp import filter_program
from backends.start import STDIO
from core.errors import ConfigError

CHUNK_BYTES = 1 << 20
MESSAGE_BYTES = 2000
ASK_SECONDS = 10.0
STARTS = ("container_start.py", "modal_start.py")


@cache
def agent_argv() -> tuple[str, ...]:
    """The agent as one command line of a container that has python3; 64 KiB are allowed for it."""
    filters = {
        machine: [found for found in (filter_program(machine), namespace_filter(machine)) if found] for machine in MACHINES
    }
    sources = [Path(__file__).with_name(name).read_bytes() for name in STARTS]
    text = b64encode(compress(b"\n".join([*sources, f"start({filters!r})".encode(), agent_source()]), 9)).decode()
    return ("python3", *FLAGS, "-c", f"import binascii, zlib; exec(zlib.decompress(binascii.a2b_base64('{text}')))", STDIO)


class ModalProgram:
    """The ByteStream to the agent, and the Host that holds it up."""

    def __init__(self, sandbox: modal.Sandbox, process: "ContainerProcess[bytes]") -> None:
        self._sandbox, self._process = sandbox, process
        self._chunks: AsyncIterator[bytes] = aiter(process.stdout)
        self._rest = b""
        self._messages = bytearray()
        self._listening = asyncio.get_running_loop().create_task(self._listen())

    async def is_alone(self) -> bool:
        """Whether the agent is the first process of a namespace of its own. Called once, before anything else."""
        first = await self.receive()
        self._rest = first[1:]
        return first[:1] == b"1"

    async def receive(self) -> bytes:
        """See ByteStream.receive. Raises SandboxLost with what Modal says of the end."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        try:
            return await anext(self._chunks)
        except StopAsyncIteration:
            raise await self._end_of("the agent's stream ended") from None
        except (modal.Error, OSError) as error:
            raise await self._end_of(f"the agent's stream broke: {error or type(error).__name__}") from error

    async def send(self, data: bytes) -> None:
        """See ByteStream.send."""
        try:
            for start in range(0, len(data), CHUNK_BYTES):
                self._process.stdin.write(data[start : start + CHUNK_BYTES])
                await self._process.stdin.drain.aio()
        except (modal.Error, OSError, ValueError) as error:
            raise await self._end_of(f"the agent cannot be written to: {error or type(error).__name__}") from error

    async def aclose(self) -> None:
        """See ByteStream.aclose; the sandbox is ended by `end`."""

    async def end(self, seconds: float) -> str:
        """See Host.end. What Modal does not end now, it ends after the sandbox's lifetime."""
        with suppress(modal.Error, OSError, TimeoutError):
            async with asyncio.timeout(max(seconds, ASK_SECONDS)):
                await self._sandbox.terminate.aio()
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        with suppress(modal.Error, OSError):
            await self._sandbox.detach.aio()
        return self._messages.decode("utf-8", "replace").strip()

    async def _end_of(self, what: str) -> SandboxLost:
        cause, reason = Cause.LINK, "Modal does not say why"
        with suppress(modal.Error, OSError, TimeoutError):
            async with asyncio.timeout(ASK_SECONDS):
                if await self._sandbox.poll.aio() is None:
                    cause, reason = Cause.KILLED, "the sandbox lives, its agent does not"
                else:
                    cause, reason = await self._end_of_sandbox()
        return SandboxLost(f"{what}; {reason}", cause=cause)

    async def _end_of_sandbox(self) -> tuple[Cause, str]:
        try:
            await self._sandbox.wait.aio()
        except modal.exception.SandboxTimeoutError:
            return Cause.EXPIRED, "its lifetime is over: give it more by lifetime_seconds"
        except modal.exception.SandboxTerminatedError:
            return Cause.EVICTED, "Modal ended it: preempted, or by somebody else"
        return Cause.KILLED, f"it ended with exit code {self._sandbox.returncode}"

    async def _listen(self) -> None:
        with suppress(modal.Error, OSError):
            async for part in self._process.stderr:
                self._messages = (self._messages + part)[-MESSAGE_BYTES:]


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Errors of Modal as ours: with whose doing they are, and whether to try again."""
    try:
        yield
    except modal.exception.ResourceExhaustedError as error:
        raise _exhausted(str(error)) from error
    except (modal.exception.AuthError, modal.exception.PermissionDeniedError) as error:
        raise ConfigError(f"modal: {error}; `modal token new` logs in, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET") from error
    except (modal.exception.ImageBuildError, modal.exception.NotFoundError) as error:
        raise ImageError(f"modal: {what}: {error}") from error
    except (modal.exception.InvalidError, modal.exception.VersionError) as error:
        raise ConfigError(f"modal: {what}: {error}") from error
    except (modal.Error, OSError) as error:
        raise BackendUnavailable(f"modal: {what}: {error or type(error).__name__}") from error


def _exhausted(message: str) -> RateLimited | QuotaExceeded | CapacityExhausted:
    text = message.lower()
    if "rate" in text:
        return RateLimited(f"modal: {message}", retry_after_seconds=1.0)
    if any(word in text for word in ("quota", "spend", "billing", "plan")):
        return QuotaExceeded(f"modal: {message}")
    return CapacityExhausted(f"modal: {message}")
