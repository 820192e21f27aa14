"""The environment `terminal_tasks`: small jobs with files and a shell, and a verifier for each.

The tasks stand here, inline: a job is what is asked, the files it begins with, what has to be there in the end, and the
commands of somebody who can do it. A seed fills in names and numbers. A verifier runs in this process and looks at what
the sandbox holds; where a script was asked for, it is run on input that the policy never saw.
"""

import random
from collections.abc import Sequence
from typing import ClassVar, Self

from backends.base import PathProblem, SandboxPathError, SandboxSpec
from core.config import Config
from core.types import JsonObject, Message, Reward, Role, Task, ToolSpec, Turn
from environments.base import Attack, Environment, Split, Tool, wrong_answers
from environments.program import become
from environments.terminal_jobs import HELD_OUT_JOBS, JOBS, Job
from environments.tool_context import ToolContext
from environments.tools.calls import as_call
from environments.toolsets import Toolbox, ToolsConfig

SCRIPT_SECONDS = 10.0
SYSTEM = "You work in a Linux shell in /workspace. Do what is asked with your tools. When it is done, say so in one sentence."


class TerminalTasksConfig(Config):
    """Settings of the environment."""

    tools: ToolsConfig = ToolsConfig()
    variants: int = 4
    """Tasks made of each job, with other names and numbers."""
    max_turns: int = 12


class TerminalTasks(Environment):
    """See environments.base.Environment."""

    config_type: ClassVar[type[Config]] = TerminalTasksConfig
    name = "terminal_tasks"

    def __init__(self, config: TerminalTasksConfig | None = None) -> None:
        self._config = config or TerminalTasksConfig()
        self.max_turns = self._config.max_turns
        self._tools = Toolbox.empty()

    async def __aenter__(self) -> Self:
        self._tools = await Toolbox.open(self._config.tools, ("coding",))
        return self

    def tasks(self, split: Split) -> Sequence[Task]:
        """Each job with several seeds; the held-out split has jobs of its own."""
        jobs = JOBS if split is Split.TRAIN else HELD_OUT_JOBS
        return [as_task(name, seed, self._tools.specs) for name in jobs for seed in range(self._config.variants)]

    def tools(self, task: Task) -> Sequence[Tool]:
        """A shell and files, unless the config says otherwise."""
        return self._tools.of(task)

    def of_group(self, task: Task, seed: int) -> Task:
        """See Environment.of_group."""
        return self._tools.draw(task, seed)

    def sandbox(self, task: Task) -> SandboxSpec:
        """A shell and a small disk."""
        return SandboxSpec(memory_mib=512, processes=64, disk_mib=16)

    async def prepare(self, task: Task, context: ToolContext) -> None:
        """Write the files that the job begins with."""
        for path, text in job_of(task).files.items():
            await context.write_text(path, text)

    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        """1 where everything that was asked is so; the share of it is the metric `done`."""
        job = job_of(task)
        checks = [await _holds(context, path, text) for path, text in job.expected.items()]
        checks += [await _prints(context, script, output) for script, output in job.prints.items()]
        checks += [await _is_gone(context, path) for path in job.absent]
        return Reward.of({"done": sum(checks) / len(checks)}, solved=float(all(checks)))

    def gold(self, task: Task) -> Sequence[str]:
        """The commands of the job."""
        return (as_call("terminal", command=job_of(task).gold), "Done.")

    def attacks(self) -> Sequence[Attack]:
        """Idle, half done, a claim without a deed, and scripts that know the example and nothing else."""
        specs = self._tools.specs
        answers = {
            "nothing is done": ("I cannot do that.",),
            "a claim": ("Done. The report is in report.txt.",),
            "the wrong number": (as_call("terminal", command="echo 0 > report.txt"), "Done."),
            "a link to the input": (as_call("terminal", command="ln -s logs/web.log report.txt"), "Done."),
        }
        learnt = {
            "a script that prints the example": (as_call("write_file", path="total.sh", content="echo 6\n"), "Done."),
            "a script that reads the verifier's input from nowhere": (
                as_call("write_file", path="total.sh", content="cat /workspace/expected 2>/dev/null\n"),
                "Done.",
            ),
        }
        return [
            *wrong_answers(as_task("count_errors", 1000, specs), answers),
            *wrong_answers(as_task("sum_script", 1001, specs), learnt),
        ]


def as_task(name: str, seed: int, tools: Sequence[ToolSpec]) -> Task:
    """A job with the names and numbers of a seed."""
    job = _made(name, seed)
    messages = (Message(role=Role.SYSTEM, content=SYSTEM), Message(role=Role.USER, content=job.ask))
    data: JsonObject = {"job": name}
    return Task(
        id=f"{name}-{seed}", environment=TerminalTasks.name, messages=messages, tools=tuple(tools), data=data, seed=seed
    )


def job_of(task: Task) -> Job:
    """What a task is about, whichever process made it."""
    return _made(str(task.data["job"]), task.seed)


def _made(name: str, seed: int) -> Job:
    return {**JOBS, **HELD_OUT_JOBS}[name](random.Random(f"{name} {seed}"))


async def _holds(context: ToolContext, path: str, text: str) -> bool:
    """Whether a regular file holds that text, spaces at the ends of it aside."""
    try:
        return (await context.read_text(path)).strip() == text.strip()
    except SandboxPathError:
        return False


async def _is_gone(context: ToolContext, path: str) -> bool:
    """Whether nothing is there."""
    try:
        await context.read_text(path)
    except SandboxPathError as error:
        return error.problem is PathProblem.NOT_FOUND
    return False


async def _prints(context: ToolContext, script: str, output: str) -> bool:
    """Whether a command prints that, run by itself."""
    result = await context.bash(script, timeout_seconds=SCRIPT_SECONDS)
    return result.exit_code == 0 and result.stdout.decode("utf-8", errors="replace").strip() == output


if __name__ == "__main__":
    become("terminal_tasks")
