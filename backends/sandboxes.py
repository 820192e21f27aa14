"""What a backend made and has not freed: by token, so that asking twice makes one; all of it, for the end of the backend."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from backends.agent_sandbox import AgentSandbox
from backends.base import StartTimeout

Make = Callable[[], Awaitable[AgentSandbox]]


@dataclass
class _Creation:
    task: "asyncio.Task[AgentSandbox]"
    waiting: int = 0
    delivered: bool = False


@dataclass(eq=False)
class Sandboxes:
    """A backend's own; `forget` is what its sandboxes call when they were destroyed."""

    _creations: dict[str, _Creation] = field(default_factory=dict)
    _alive: dict[AgentSandbox, str] = field(default_factory=dict)
    _unnamed: int = 0

    async def create(self, make: Make, token: str, deadline_seconds: float) -> AgentSandbox:
        """What `make` returns, made once for each token; an empty token is one of its own.

        Where every caller was cancelled, nothing is left. Raises StartTimeout after the deadline, and what `make` raises.
        """
        if not token:
            self._unnamed += 1
            token = f"\0{self._unnamed}"  # no caller's
        creation = self._creations.get(token)
        if creation is None:
            task = asyncio.get_running_loop().create_task(self._make(make, token, deadline_seconds))
            creation = self._creations[token] = _Creation(task)
            task.add_done_callback(lambda task: self._settle(token, task))
        creation.waiting += 1
        try:
            sandbox = await asyncio.shield(creation.task)
        except asyncio.CancelledError:
            if creation.waiting == 1 and not creation.delivered:
                await self._undo(creation)
            raise
        finally:
            creation.waiting -= 1
        creation.delivered = True
        return sandbox

    async def forget(self, sandbox: AgentSandbox) -> None:
        """It was destroyed."""
        self._creations.pop(self._alive.pop(sandbox, ""), None)

    async def aclose(self) -> None:
        """Destroy all of them; what is being made is given up."""
        for creation in list(self._creations.values()):
            creation.task.cancel()
        await asyncio.gather(*(creation.task for creation in self._creations.values()), return_exceptions=True)
        await asyncio.gather(*(sandbox.destroy() for sandbox in list(self._alive)))

    async def _make(self, make: Make, token: str, deadline_seconds: float) -> AgentSandbox:
        try:
            async with asyncio.timeout(deadline_seconds):
                sandbox = await make()
        except TimeoutError as error:
            raise StartTimeout(f"the sandbox was not ready within {deadline_seconds:g} s") from error
        self._alive[sandbox] = token
        return sandbox

    def _settle(self, token: str, task: "asyncio.Task[AgentSandbox]") -> None:
        """A token whose creation failed may be used again."""
        if task.cancelled() or task.exception() is not None:
            self._creations.pop(token, None)

    async def _undo(self, creation: _Creation) -> None:
        creation.task.cancel()
        (made,) = await asyncio.gather(creation.task, return_exceptions=True)
        if isinstance(made, AgentSandbox):
            await made.destroy()
