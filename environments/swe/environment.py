"""The environment `swe`: a small git repository with a bug, a test that fails, and hidden tests that decide.

Without a data set it makes its repositories itself (environments/swe/generator.py); otherwise it reads rows in the form
of HumanEvalPack or SWE-bench (environments/swe/rows.py).
"""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from pydantic import Field

from backends.base import BACKENDS, SandboxPathError, SandboxSpec
from core.config import Config
from core.types import Message, Reward, Role, Task, Turn
from environments.base import Attack, Environment, Split, Tool, wrong_answers
from environments.rows import BrokenRows
from environments.swe.attacks import attack_answers
from environments.swe.generator import repairs
from environments.swe.held_out_programs import HELD_OUT
from environments.swe.programs import TRAIN
from environments.swe.repair import Repair, is_source
from environments.swe.rows import read_repairs
from environments.swe.trial import hidden_tests
from environments.tool_context import ToolContext
from environments.tools.calls import as_call
from environments.toolsets import Toolbox, ToolsConfig

MAX_FILE_BYTES = 1 << 18
SYSTEM = (
    "You repair code in the git repository in /workspace. Look at it with your tools, change its sources, and run its tests. "
    "Other tests than those in it decide. When the repair is done, say so in one sentence."
)
COMMIT = (
    "command -v git >/dev/null || exit 0; git init -q . && git add -A && "
    "git -c user.name=natgym -c user.email=natgym@localhost commit -q -m 'As it was found'"
)


class SweConfig(Config):
    """Settings of the environment."""

    train: Path | None = None
    """Rows in the form of HumanEvalPack or SWE-bench; None: generated repositories."""
    test: Path | None = None
    broken_rows: BrokenRows = BrokenRows.REFUSE
    backend: str = "local"
    """Where the hidden tests run."""
    tools: ToolsConfig = ToolsConfig(use=("coding",))
    max_turns: int = Field(default=20, gt=0)


class Swe(Environment):
    """See environments.base.Environment."""

    config_type: ClassVar[type[Config]] = SweConfig
    name = "swe"

    def __init__(self, config: SweConfig | None = None) -> None:
        self._config = config or SweConfig()
        self.max_turns = self._config.max_turns
        self._tasks: dict[Split, list[Task]] = {}
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._backend = BACKENDS.load(self._config.backend)()
        self._running.push_async_callback(self._backend.aclose)
        self._tools = await Toolbox.open(self._config.tools)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._running.aclose()

    def tasks(self, split: Split) -> Sequence[Task]:
        """One a repository. Raises BadData for a broken row."""
        if split not in self._tasks:
            file = self._config.train if split is Split.TRAIN else self._config.test
            made = repairs(TRAIN if split is Split.TRAIN else HELD_OUT)
            self._tasks[split] = [self._task(one) for one in (read_repairs(file, self._config.broken_rows) if file else made)]
        return self._tasks[split]

    def tools(self, task: Task) -> Sequence[Tool]:
        """A shell and files, unless the config says otherwise."""
        return self._tools.of(task)

    def of_group(self, task: Task, seed: int) -> Task:
        """See Environment.of_group."""
        return self._tools.draw(task, seed)

    def sandbox(self, task: Task) -> SandboxSpec:
        """A shell, Python and a small disk."""
        return SandboxSpec(memory_mib=1024, processes=128, disk_mib=64)

    async def prepare(self, task: Task, context: ToolContext) -> None:
        """Lay down the repository, and commit it where the sandbox has git."""
        await context.upload({path: text.encode() for path, text in _repair(task).files.items()})
        done = await context.bash(COMMIT)
        if done.exit_code != 0:
            raise RuntimeError(f"git: {done.stderr[-300:].decode(errors='replace').strip()}")

    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        """1 where all hidden tests pass on a fresh copy of the sources; the share that does is the metric `hidden`."""
        repair = _repair(task)
        verdict = await hidden_tests(self._backend, repair, await sources(repair, context))
        return Reward.of({"hidden": verdict.passed / max(1, verdict.total)}, solved=float(verdict.solved))

    def gold(self, task: Task) -> Sequence[str]:
        """The known repair, written file by file."""
        written = [as_call("write_file", path=path, content=text) for path, text in _repair(task).fixed.items()]
        return ("\n".join(written), "The bug is mended.")

    def attacks(self) -> Sequence[Attack]:
        """Doing nothing, silencing the tests, knowing the visible ones by heart, and code that goes for the verdict."""
        repair = next(repairs(TRAIN))
        return wrong_answers(self._task(repair), attack_answers(repair))

    def _task(self, repair: Repair) -> Task:
        messages = (Message(role=Role.SYSTEM, content=SYSTEM), Message(role=Role.USER, content=repair.statement))
        data = repair.model_dump(mode="json", exclude={"statement"})
        return Task(id=f"swe-{repair.name}", environment=self.name, messages=messages, tools=self._tools.specs, data=data)


async def sources(repair: Repair, context: ToolContext) -> Mapping[str, str]:
    """The repository's own Python as the policy left it: no tests, no caches, no start-up files of an interpreter."""
    listed = [path for path in await context.files() if is_source(path)]
    found: dict[str, str] = {}
    for path in dict.fromkeys([*filter(is_source, repair.files), *listed]):
        with suppress(SandboxPathError):  # what is gone or too large is not part of it
            found[path] = await context.read_text(path, max_bytes=MAX_FILE_BYTES)
    return found


def _repair(task: Task) -> Repair:
    return Repair.model_validate(task.data)
