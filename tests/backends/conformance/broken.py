"""Sandboxes that are wrong on purpose, each in one way: the suite must find every one of them out."""

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from backends.agent_sandbox import AgentSandbox
from backends.base import ExecResult, SandboxSpec
from backends.unsafe_local import UnsafeLocalBackend


class KillsTheGroupOnly(AgentSandbox):
    """At a timeout it kills the process group of the command, as most simple runners do."""

    async def exec(self, argv: Sequence[str], *, timeout_seconds: float, **asked: Any) -> ExecResult:
        output = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(*argv, stdout=output, stderr=output, start_new_session=True)
        try:
            async with asyncio.timeout(timeout_seconds):
                return ExecResult(exit_code=await process.wait(), stdout=b"done\n", stderr=b"")
        except TimeoutError:
            return ExecResult(exit_code=None, stdout=b"", stderr=b"", timed_out=True)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


class ReadsWithoutBound(AgentSandbox):
    """It returns whatever a command prints."""

    async def exec(self, argv: Sequence[str], **asked: Any) -> ExecResult:
        return await super().exec(argv, **{**asked, "max_output": 1 << 25})


class FollowsLinks(AgentSandbox):
    """It opens paths of the workspace on the host."""

    workspace: Path

    async def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        with (self.workspace / path).open("rb") as file:
            return file.read(max_bytes)

    async def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        target = self.workspace / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


class BrokenBackend(UnsafeLocalBackend):
    """Makes sandboxes of one of these kinds."""

    def __init__(self, kind: type[AgentSandbox]) -> None:
        super().__init__()
        self._kind = kind

    async def create(self, spec: SandboxSpec, *, token: str = "", deadline_seconds: float = 60.0) -> AgentSandbox:
        sandbox = await super().create(spec, token=token, deadline_seconds=deadline_seconds)
        sandbox.__class__ = self._kind
        if isinstance(sandbox, FollowsLinks):
            sandbox.workspace = Path((await AgentSandbox.exec(sandbox, ["pwd"], timeout_seconds=30)).stdout.decode().strip())
        return sandbox
