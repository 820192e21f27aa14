"""The environment `swe`: a small git repository with a bug, a test that fails, and hidden tests that decide.

Without a data set it makes its repositories itself (environments/swe/generator.py); otherwise it reads rows in the form
of HumanEvalPack or SWE-bench (environments/swe/rows.py).
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from pydantic import Field

from backends.base import BACKENDS, SandboxSpec
from core.config import Config
from core.types import Message, Reward, Role, Task, Turn
from environments.base import Attack, Environment, Split, Tool, wrong_answers
from environments.rows import BrokenRows
from environments.swe.attacks import attack_answers
from environments.swe.bench import Bench, BenchRow
from environments.swe.generator import repairs
from environments.swe.held_out_programs import HELD_OUT
from environments.swe.programs import TRAIN
from environments.swe.repair import Repair
from environments.swe.rows import read_repairs
from environments.swe.trial import hidden_tests, sources
from environments.tool_context import ToolContext
from environments.tools.calls import as_call
from environments.toolsets import Toolbox, ToolsConfig

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
    repositories: Path | None = None
    """Clones called OWNER__NAME, which rows of SWE-bench need."""
    packages: Path | None = None
    """A folder with pytest and what those tests import; None: the sandbox has them."""
    backend: str = "local"
    """Where the hidden tests run."""
    tools: ToolsConfig = ToolsConfig()
    max_turns: int = Field(default=20, gt=0)


class Swe(Environment):
    """See environments.base.Environment."""

    config_type: ClassVar[type[Config]] = SweConfig
    name = "swe"

    def __init__(self, config: SweConfig | None = None) -> None:
        self._config = config or SweConfig()
        self.max_turns = self._config.max_turns
        self._tools = Toolbox.empty()
        self._tasks: dict[Split, list[Task]] = {}
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._backend = BACKENDS.load(self._config.backend)()
        self._running.push_async_callback(self._backend.aclose)
        self._bench = Bench(self._backend, self._config.repositories, self._config.packages)
        self._tools = await Toolbox.open(self._config.tools, ("coding",))
        self._tasks.clear()  # those from before have no tools
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
        asked = _asked(task)
        return self._bench.spec() if isinstance(asked, BenchRow) else SandboxSpec(memory_mib=1024, processes=128, disk_mib=64)

    async def prepare(self, task: Task, context: ToolContext) -> None:
        """Lay down the repository, and commit it where the sandbox has git."""
        asked = _asked(task)
        if isinstance(asked, BenchRow):
            return await self._bench.prepare(asked, context)
        await context.upload({path: text.encode() for path, text in asked.files.items()})
        done = await context.bash(COMMIT)
        if done.exit_code != 0:
            raise RuntimeError(f"git: {done.stderr[-300:].decode(errors='replace').strip()}")
        return None

    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        """1 where all hidden tests pass on a fresh copy of the sources; the share that does is the metric `hidden`."""
        asked = _asked(task)
        if isinstance(asked, BenchRow):
            verdict = await self._bench.verdict(asked, context)
        else:
            verdict = await hidden_tests(self._backend, asked, await sources(asked, context))
        return Reward.of({"hidden": verdict.passed / max(1, verdict.total)}, solved=float(verdict.solved))

    def gold(self, task: Task) -> Sequence[str]:
        """The known repair, written file by file."""
        asked = _asked(task)
        if isinstance(asked, BenchRow):
            return self._bench.gold(asked)
        written = [as_call("write_file", path=path, content=text) for path, text in asked.fixed.items()]
        return ("\n".join(written), "The bug is mended.")

    def attacks(self) -> Sequence[Attack]:
        """Doing nothing, silencing the tests, knowing the visible ones by heart, and code that goes for the verdict."""
        repair = next(repairs(TRAIN))
        return wrong_answers(self._task(repair), attack_answers(repair))

    def _task(self, asked: Repair | BenchRow) -> Task:
        said = asked.problem_statement if isinstance(asked, BenchRow) else asked.statement
        name = asked.instance_id if isinstance(asked, BenchRow) else asked.name
        messages = (Message(role=Role.SYSTEM, content=SYSTEM), Message(role=Role.USER, content=said))
        data = asked.model_dump(mode="json", exclude={"statement"})
        return Task(id=f"swe-{name}", environment=self.name, messages=messages, tools=self._tools.specs, data=data)


def _asked(task: Task) -> Repair | BenchRow:
    """What a task is about, whichever process made it."""
    return (BenchRow if "instance_id" in task.data else Repair).model_validate(task.data)
