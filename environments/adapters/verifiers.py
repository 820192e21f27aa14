"""An environment of ours as one of verifiers 0.4: our tasks are its taskset, our agent loop is its harness.

    # my_gsm8k.py, somewhere on the path: `vf-eval my_gsm8k` finds it by that name
    from environments.adapters.verifiers import export
    Tasks, Loop, Served = export("gsm8k")
    __all__ = ["Tasks", "Loop", "Served"]

An episode is played as everywhere else: our tools in our sandbox, and the reward in the same one. Every completion is
asked for through verifiers, so its trace holds the conversation, with token ids where its client has them. The parts of
the reward are its rewards, our metrics its metrics. A Failure is an error of the rollout and never a score.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Any, NamedTuple

from pydantic import SecretStr

from backends.base import BACKENDS, Backend
from core.config import validated
from core.errors import MissingRuntime
from core.types import JsonObject, Task, Trajectory
from environments.agent_loop import EpisodeLimits
from environments.base import ENVIRONMENTS, Environment, Split
from environments.completion_client import root_of
from environments.episode import Arena, run_episode
from environments.policy import PolicyConfig, PolicyKind, open_policy

PLAYED = "natgym"
"""Where in a trace's `info` stands what became of the episode: its reward's parts and metrics, and why it ended."""


class Shared(NamedTuple):
    """What all rollouts of a process play in."""

    environment: Environment
    backend: Backend
    tasks: dict[str, Task]


class Stage:
    """Environment and backend by name, opened by the first who plays and closed by the last."""

    def __init__(self, name: str, settings: JsonObject, backend: str) -> None:
        kind = ENVIRONMENTS.load(name)
        self._kind, self._backend = kind, backend
        self._config = validated(kind.config_type, settings, f"export of {name}")  # type: ignore[attr-defined]
        self._turn, self._users = asyncio.Lock(), 0

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[Shared]:
        """The same for everybody who is inside at a time."""
        async with self._turn:
            if not self._users:
                self._opened = AsyncExitStack()
                self._shared = await self._open()
            self._users += 1
        try:
            yield self._shared
        finally:
            async with self._turn:
                self._users -= 1
                if not self._users:
                    await self._opened.aclose()

    def tasks(self, split: Split) -> list[Task]:
        """All tasks of a split, from a loop of their own: verifiers asks for them in the middle of its loop."""
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, self._listed(split)).result()

    async def _listed(self, split: Split) -> list[Task]:
        async with self._kind(self._config) as environment:
            return list(environment.tasks(split))

    async def _open(self) -> Shared:
        backend: Backend = BACKENDS.load(self._backend)()
        self._opened.push_async_callback(backend.aclose)
        await backend.probe()
        environment = await self._opened.enter_async_context(self._kind(self._config))
        return Shared(environment, backend, {task.id: task for split in Split for task in environment.tasks(split)})

    async def play(self, task_id: str, rollout_id: str, policy: PolicyConfig, secret: str, turns: int | None) -> Trajectory:
        """One episode by the server that a config names; `turns` at most, None: the environment's own limit."""
        async with self.shared() as shared:
            answering = open_policy(policy, SecretStr(secret))
            try:
                arena = Arena(shared.environment, answering, shared.backend, EpisodeLimits(turns=turns))
                return await run_episode(arena, shared.tasks[task_id], rollout_id)
            finally:
                await answering.aclose()


def export(name: str, settings: JsonObject | None = None, backend: str = "local") -> tuple[Any, Any, Any]:
    """Taskset, harness and environment of verifiers, for a module of their own to export.

    `name`: one of ours, an entry point or `module:Class`; `settings`: the section `env` of a run's file.
    Raises UnknownName, ConfigError and MissingRuntime.
    """
    try:
        vf = import_module("verifiers.v1")
    except ModuleNotFoundError as error:
        raise MissingRuntime(
            f"exporting to verifiers needs the package {error.name!r}: pip install 'natgym[verifiers]', apart from the trainer"
        ) from error
    stage = Stage(name, settings or {}, backend)
    return _taskset(vf, stage), _harness(vf, stage), _environment(vf, stage)


def _taskset(vf: Any, stage: Stage) -> Any:
    class NatgymTask(vf.Task[vf.TaskData]):
        """Scored by what its episode earned."""

        @vf.reward
        async def parts(self, trace: Any) -> dict[str, float]:
            return trace.info[PLAYED]["parts"]

        @vf.metric
        async def measured(self, trace: Any) -> dict[str, float]:
            return trace.info[PLAYED]["metrics"]

    class NatgymTasksConfig(vf.TasksetConfig):
        split: Split = Split.HELD_OUT

    class NatgymTasks(vf.Taskset[NatgymTask, NatgymTasksConfig]):
        """The tasks of a split; their hidden data stays behind."""

        def load(self) -> list[Any]:
            return [NatgymTask(self._data(task), self.config.task) for task in stage.tasks(self.config.split)]

        @staticmethod
        def _data(task: Task) -> Any:
            return vf.TaskData(id=task.id, name=task.id, prompt=[message.to_openai() for message in task.messages])

    return NatgymTasks


def _harness(vf: Any, stage: Stage) -> Any:
    done = import_module("verifiers.v1.runtimes").ProgramResult(0, "", "")

    class NatgymLoop(vf.Harness[vf.HarnessConfig]):
        """Our agent loop, in this process: what the policy runs, it runs in a sandbox of ours."""

        APPENDS_SYSTEM_PROMPT = True
        EXECUTES_CODE = False
        NEEDS_CONTAINER = False

        async def launch(self, ctx: Any, trace: Any, *given: Any) -> Any:
            _, endpoint, secret, _, data = given  # runtime, endpoint, secret, mcp_urls, data
            # verifiers repeats what can be repeated
            policy = PolicyConfig(kind=PolicyKind.SERVER, base_url=root_of(endpoint), model=ctx.model, attempts=1)
            played = await stage.play(data.id, trace.id, policy, secret, trace.agent.config.max_turns)
            if played.reward is None:
                lost = played.failure
                raise vf.HarnessError(f"{lost.boundary}: {lost.error}: {lost.message}" if lost else "lost")
            reward = played.reward
            trace.info[PLAYED] = {"parts": reward.parts, "metrics": reward.metrics, "stop": played.stop.value}
            return done

    return NatgymLoop


def _environment(vf: Any, stage: Stage) -> Any:
    here = vf.AgentConfig(runtime=vf.SubprocessConfig())

    class NatgymServedConfig(vf.EnvConfig):
        agent: vf.AgentConfig = here  # pyright: ignore[reportInvalidTypeForm]

    class NatgymServed(vf.Env[NatgymServedConfig]):
        """One agent, and the environment and its backend open as long as rollouts are served."""

        async def run(self, task: Any, agents: Any) -> None:
            await agents.agent.run(task)

        async def start(self) -> None:
            self._open = AsyncExitStack()
            await self._open.enter_async_context(stage.shared())

        async def stop(self) -> None:
            await self._open.aclose()

    return NatgymServed
