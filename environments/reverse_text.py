"""The environment `reverse_text`: say a word backwards. The smallest whole environment, without tools."""

from collections.abc import Sequence

from core.types import Message, Reward, Role, Task, Turn
from environments.base import Attack, Environment, Split, Tool, wrong_answers
from environments.program import become
from environments.tool_context import ToolContext

WORDS = "lantern copper meadow violin harbour cactus thimble glacier pepper saddle walnut compass ribbon falcon".split()  # noqa: SIM905
HELD_OUT = "orchard pebble trumpet".split()  # noqa: SIM905


class ReverseText(Environment):
    """See environments.base.Environment."""

    name = "reverse_text"
    max_turns = 1

    def tasks(self, split: Split) -> Sequence[Task]:
        """One a word."""
        return [self._task(word) for word in (WORDS if split is Split.TRAIN else HELD_OUT)]

    def tools(self, task: Task) -> Sequence[Tool]:
        """None: the answer is what the policy says."""
        return ()

    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        """1 for the word backwards and nothing else."""
        said = turns[-1].message.content.strip() if turns else ""
        return Reward.of(correct=float(said == task.data["answer"]))

    def gold(self, task: Task) -> Sequence[str]:
        """The word backwards."""
        return (str(task.data["answer"]),)

    def attacks(self) -> Sequence[Attack]:
        """Wrong answers."""
        return wrong_answers(
            self._task("ladder"),
            {"the word itself": ("ladder",), "nothing": ("",), "both": ("ladder reddal",), "another case": ("REDDAL",)},
        )

    def _task(self, word: str) -> Task:
        ask = Message(role=Role.USER, content=f"Say the word {word!r} backwards, and nothing else.")
        return Task(id=f"reverse-{word}", environment=self.name, messages=(ask,), data={"answer": word[::-1]})


if __name__ == "__main__":
    become("reverse_text")
