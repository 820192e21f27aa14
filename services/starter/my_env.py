"""The environment `my_env`: add numbers that lie in a file."""

from collections.abc import Sequence

from core.types import Message, Reward, Role, Task, Turn
from environments.base import Attack, Environment, Split, Tool, wrong_answers
from environments.program import become
from environments.tool_context import ToolContext
from environments.tools.calls import as_call
from environments.tools.declare import tool


async def read_numbers(context: ToolContext, path: str) -> str:
    """Read the numbers in a file.

    path: where they lie
    """
    return await context.read_text(path)


READ_NUMBERS = tool(read_numbers)


class MyEnv(Environment):
    """See environments.base.Environment."""

    name = "my_env"
    max_turns = 4

    def tasks(self, split: Split) -> Sequence[Task]:
        """Sums to learn from, and others that are only measured."""
        numbers = range(20) if split is Split.TRAIN else range(100, 105)
        return [self._task(number, number + 7) for number in numbers]

    def tools(self, task: Task) -> Sequence[Tool]:
        """One that reads a file."""
        return (READ_NUMBERS,)

    async def prepare(self, task: Task, context: ToolContext) -> None:
        """Put the numbers where the task says that they lie."""
        await context.write_text("numbers.txt", str(task.data["numbers"]))

    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        """1 where the last turn is the sum and nothing else."""
        said = turns[-1].message.content.strip() if turns else ""
        return Reward.of(correct=float(said == task.data["answer"]))

    def gold(self, task: Task) -> Sequence[str]:
        """Read the file, then say the sum."""
        return (as_call("read_numbers", path="numbers.txt"), str(task.data["answer"]))

    def attacks(self) -> Sequence[Attack]:
        """Wrong answers."""
        return wrong_answers(self._task(1, 2), {"another sum": ("4",), "nothing": ("",), "two sums": ("3 or 4",)})

    def _task(self, left: int, right: int) -> Task:
        ask = Message(role=Role.USER, content="Add the numbers in numbers.txt. Say the sum and nothing else.")
        return Task(
            id=f"my_env-{left}-{right}",
            environment=self.name,
            messages=(ask,),
            tools=(READ_NUMBERS.spec,),
            data={"numbers": f"{left} {right}", "answer": str(left + right)},
        )


if __name__ == "__main__":
    become("my_env:MyEnv")
