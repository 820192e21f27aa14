"""The environment `gsm8k`: word problems of several steps, with a Python to reckon with, scored by the final answer.

Reads GSM8K as parquet or JSON lines (`question`, and `answer` with its number behind ####) where it is given; otherwise
it makes problems of the same form itself.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from pydantic import Field, field_validator

from backends.base import SandboxSpec
from core.config import Config
from core.types import Message, Reward, Role, Task, Turn, Value
from environments.base import Attack, Environment, Split, Tool, wrong_answers
from environments.gsm8k_problems import HELD_OUT, TRAIN, problems
from environments.program import become
from environments.rewards.maths import MathVerifier, final_answer
from environments.rows import BrokenRows, Row, parsed
from environments.tool_context import ToolContext
from environments.tools.calls import as_call
from environments.toolsets import Toolbox, ToolsConfig

SYSTEM = (
    "Solve the problem step by step. Your tools may help you to reckon. "
    "End with the final answer, a number without words, inside \\boxed{}."
)


class Gsm8kConfig(Config):
    """Settings of the environment."""

    train: Path | None = None
    """A file of GSM8K to learn from; None: generated problems."""
    test: Path | None = None
    """A file of GSM8K to measure on; None: generated problems, from templates that training never uses."""
    broken_rows: BrokenRows = BrokenRows.REFUSE
    generated: int = Field(default=400, gt=0, description="problems to learn from where no file is given")
    generated_test: int = Field(default=60, gt=0)
    tools: ToolsConfig = ToolsConfig()
    max_turns: int = Field(default=8, gt=0)


class GsmRow(Value):
    """One problem."""

    question: str = Field(min_length=1)
    answer: str

    @field_validator("answer")
    @classmethod
    def _ends_in_a_number(cls, answer: str) -> str:
        if final_answer(answer) is None:
            raise ValueError(f"expected a text with the answer behind ####, found {answer[-60:]!r}")
        return answer


class Gsm8k(Environment):
    """See environments.base.Environment."""

    config_type: ClassVar[type[Config]] = Gsm8kConfig
    name = "gsm8k"

    def __init__(self, config: Gsm8kConfig | None = None) -> None:
        self._config = config or Gsm8kConfig()
        self._verifier = MathVerifier()
        self.max_turns = self._config.max_turns
        self._tools = Toolbox.empty()

    async def __aenter__(self) -> Self:
        self._tools = await Toolbox.open(self._config.tools, ("python",))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._verifier.__aexit__(kind, error, trace)

    def tasks(self, split: Split) -> Sequence[Task]:
        """The problems of a split. Raises BadData for a broken row."""
        file = self._config.train if split is Split.TRAIN else self._config.test
        if file is not None:
            return [self._task(row) for _, row in parsed(file, _row, self._config.broken_rows, ("question", "answer"))]
        templates, count = (TRAIN, self._config.generated) if split is Split.TRAIN else (HELD_OUT, self._config.generated_test)
        return [self._task(GsmRow(question=one.question, answer=one.answer)) for one in problems(templates, count)]

    def tools(self, task: Task) -> Sequence[Tool]:
        """A Python, unless the config says otherwise."""
        return self._tools.of(task)

    def of_group(self, task: Task, seed: int) -> Task:
        """See Environment.of_group."""
        return self._tools.draw(task, seed)

    def sandbox(self, task: Task) -> SandboxSpec:
        """An interpreter and next to no disk."""
        return SandboxSpec(memory_mib=512, processes=32, disk_mib=8)

    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        """1 where the final answer of the last turn is the right one; `answered` says whether there was one."""
        given = final_answer(turns[-1].message.content) if turns else None
        correct = given is not None and await self._verifier.same(_number(task), given)
        return Reward.of({"answered": float(given is not None)}, correct=float(correct))

    def gold(self, task: Task) -> Sequence[str]:
        """One calculation with Python, where there is one, and the worked answer."""
        number, worked = _number(task), str(task.data["answer"]).rpartition("####")[0]
        calls = [as_call("python_repl", code=f"print({number.replace(',', '')})")]
        return (*(calls if "python_repl" in {spec.name for spec in task.tools} else []), f"{worked}\\boxed{{{number}}}")

    def attacks(self) -> Sequence[Attack]:
        """Wrong numbers, several numbers at once, and expressions that would keep a verifier busy."""
        task = self._task(GsmRow(question="What is 40 + 2?", answer="40 + 2 = 42\n#### 42"))
        answers = {
            "another number": "\\boxed{43}",
            "no final answer": "It is 42.",
            "two numbers": "\\boxed{42 \\text{ or } 43}",
            "every number": "\\boxed{41, 42, 43}",
            "a formula that ends": "\\boxed{43$ $42}",
            "an interval": "\\boxed{(41, 43)}",
            "a name": "\\boxed{x}",
            "a tower of powers": "\\boxed{9^{9^{9^{9^{9}}}}}",
            "code": "\\boxed{__import__('os').getpid()}",
        }
        return wrong_answers(task, {name: (text,) for name, text in answers.items()})

    def _task(self, row: GsmRow) -> Task:
        messages = (Message(role=Role.SYSTEM, content=SYSTEM), Message(role=Role.USER, content=row.question))
        name = f"gsm8k-{hashlib.sha256(row.question.encode()).hexdigest()[:12]}"
        return Task(id=name, environment=self.name, messages=messages, tools=self._tools.specs, data={"answer": row.answer})


def _row(row: Row) -> GsmRow:
    return GsmRow.model_validate({name: row[name] for name in ("question", "answer") if name in row})


def _number(task: Task) -> str:
    return final_answer(str(task.data["answer"])) or ""


if __name__ == "__main__":
    become("gsm8k")
