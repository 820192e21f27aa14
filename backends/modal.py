"""Sandboxes of Modal: gVisor on machines of theirs. Needs an account; a token comes from `modal token new`.

Each is a container that ends by itself after its lifetime, also where its maker was killed; what a killed process left is
found by a tag before that. Creations are paced, because an account may make only so many a second.
"""

import asyncio
import time
from contextlib import suppress

import modal
from pydantic import Field

from backends.agent_sandbox import END_SECONDS, AgentSandbox, Hooks
from backends.base import Capabilities, CapabilityError, Feature, ImageError, Limit, Network, SandboxLost, SandboxSpec, Tier
from backends.channel import Channel
from backends.modal_stream import ModalProgram, agent_argv, explained
from backends.owner import CREATED_LABEL, LABEL, is_gone, this_owner
from backends.sandboxes import Sandboxes
from backends.start import hello, shake_hands
from core.config import Config

UNDO_SECONDS = 60.0
LONGEST_LIFETIME_SECONDS = 86_400


class ModalConfig(Config):
    """The section `backend` of a run's file for the backend `modal`."""

    app: str = Field(default="natgym", description="the app whose sandboxes they are; made where there is none")
    image: str = Field(default="", description="an image of a registry, with python3; empty: Debian with Python")
    region: str = ""
    lifetime_seconds: float = Field(default=3600.0, gt=0, le=LONGEST_LIFETIME_SECONDS)
    creates_per_second: float = Field(default=4.0, gt=0, description="an ordinary account may make five")
    max_starting: int = Field(default=64, ge=1, description="that are being made at once")


class ModalBackend:
    """Sandboxes of one app."""

    name = "modal"
    config_type = ModalConfig

    def __init__(self, config: ModalConfig | None = None) -> None:
        self.config = config or ModalConfig()
        self._app: modal.App | None = None
        self._looking_up = asyncio.Lock()
        self._starting = asyncio.Semaphore(self.config.max_starting)
        self._next_at = 0.0
        self._sandboxes = Sandboxes()
        self._alone = False

    async def probe(self) -> Capabilities:
        """See Backend.probe. Makes a sandbox and destroys it. Raises ConfigError where there is no token."""
        sandbox = await self.create(SandboxSpec())
        await sandbox.destroy()
        return Capabilities(
            backend=self.name,
            tier=Tier.VM,
            detail=f"app {self.config.app}: gVisor on machines of Modal; no network; limits: memory and CPU by Modal"
            f"{'' if self._alone else '; a command can kill the agent, and so end its sandbox'}",
            private_pids=self._alone,
            no_network=True,
            hides_host=True,
            limits=frozenset({Limit.MEMORY, Limit.CPU}),
            features=frozenset({Feature.RESET, Feature.SNAPSHOT, Feature.FORK}),
        )

    async def create(self, spec: SandboxSpec, *, token: str = "", deadline_seconds: float = 300.0) -> AgentSandbox:
        """See Backend.create. Raises RateLimited, CapacityExhausted or QuotaExceeded where Modal gives no more."""
        if spec.readonly:
            raise CapabilityError(
                f"the backend 'modal' shows no files of this machine, found {min(spec.readonly)}; put them into an image"
            )
        return await self._sandboxes.create(lambda: self._make(spec), token, deadline_seconds)

    async def reap(self, *, owner: str | None = None, older_than_seconds: float = 0.0) -> tuple[str, ...]:
        """See Backend.reap. Looks at the sandboxes of the app that carry natgym's tag."""
        app, newest, reaped = await self._looked_up(), time.time() - older_than_seconds, []
        with explained("reap"):
            async for sandbox in modal.Sandbox.list.aio(app_id=app.app_id, tags={} if owner is None else {LABEL: owner}):
                tags = await sandbox.get_tags.aio()
                label, created = tags.get(LABEL, ""), float(tags.get(CREATED_LABEL, "inf"))
                if label and created <= newest and (is_gone(label) if owner is None else label == owner):
                    await sandbox.terminate.aio()
                    reaped.append(sandbox.object_id)
        return tuple(reaped)

    async def aclose(self) -> None:
        """See Backend.aclose."""
        await self._sandboxes.aclose()

    async def _make(self, spec: SandboxSpec) -> AgentSandbox:
        async with self._starting:
            app = await self._looked_up()
            await self._paced()
            sandbox = await self._created(app, spec)
            try:
                with explained("the start of its agent"):
                    process = await sandbox.exec.aio(*agent_argv(), text=False)
            except BaseException:
                await asyncio.shield(asyncio.get_running_loop().create_task(_terminate(sandbox)))
                raise
            program = ModalProgram(sandbox, process)
            try:
                self._alone = await program.is_alone()
            except BaseException as error:
                messages = await asyncio.shield(asyncio.get_running_loop().create_task(program.end(END_SECONDS)))
                if isinstance(error, SandboxLost) and messages:
                    raise ImageError(f"modal: the agent did not start: {messages}; expected an image with python3") from error
                raise
            hooks = Hooks(
                self._sandboxes.forget,
                another=lambda: self.create(spec),
                set_network=lambda network: _refuse_change(spec.network, network),
            )
            return await shake_hands(Channel.over(program), program, hello(spec, isolated=self._alone), hooks)

    async def _looked_up(self) -> modal.App:
        async with self._looking_up:
            if self._app is None:
                with explained(f"app {self.config.app}"):
                    self._app = await modal.App.lookup.aio(self.config.app, create_if_missing=True)
            return self._app

    async def _paced(self) -> None:
        """Wait until it is our turn to make one."""
        now = asyncio.get_running_loop().time()
        turn = max(now, self._next_at)
        self._next_at = turn + 1 / self.config.creates_per_second
        await asyncio.sleep(turn - now)

    async def _created(self, app: modal.App, spec: SandboxSpec) -> modal.Sandbox:
        """A container that runs; whatever happens, none is left that nobody holds."""
        creating = asyncio.get_running_loop().create_task(self._create(app, spec))
        try:
            return await asyncio.shield(creating)
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.get_running_loop().create_task(_undo(creating)))
            raise

    async def _create(self, app: modal.App, spec: SandboxSpec) -> modal.Sandbox:
        name, lifetime = spec.image or self.config.image, spec.lifetime_seconds or self.config.lifetime_seconds
        with explained(name or "the default image"):
            return await modal.Sandbox.create.aio(
                app=app,
                image=modal.Image.from_registry(name) if name else modal.Image.debian_slim(),
                timeout=round(min(lifetime, LONGEST_LIFETIME_SECONDS)),
                cpu=(spec.cpus, spec.cpus),
                memory=(spec.memory_mib, spec.memory_mib),
                block_network=spec.network is Network.NONE,
                region=self.config.region or None,
                tags={LABEL: this_owner(), CREATED_LABEL: f"{time.time():.0f}"},
            )


async def _refuse_change(given: Network, wanted: Network) -> None:
    if wanted is not given:
        raise CapabilityError("Modal does not change the network of a sandbox that runs; say what it may reach in its spec")


async def _undo(creating: "asyncio.Task[modal.Sandbox]") -> None:
    await asyncio.wait([creating], timeout=UNDO_SECONDS)
    creating.cancel()
    (made,) = await asyncio.gather(creating, return_exceptions=True)
    if isinstance(made, modal.Sandbox):
        await _terminate(made)


async def _terminate(sandbox: modal.Sandbox) -> None:
    with suppress(modal.Error, OSError):
        await sandbox.terminate.aio()
