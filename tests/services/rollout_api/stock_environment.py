"""An environment as Atropos's users write them, run as a program by the interpreter that Atropos is installed for.

Its groups are numbered: the first token of every sequence of the group n is the number n + OFFSET.
"""

import asyncio

from atroposlib.envs.base import APIServerConfig, BaseEnv, BaseEnvConfig

OFFSET = 1000


class Numbers(BaseEnv):
    name = "numbers"

    @classmethod
    def config_init(cls):
        nobody = APIServerConfig(model_name="none", base_url="http://127.0.0.1:9/v1", api_key="x", health_check=False)
        return BaseEnvConfig(wandb_name="numbers", group_size=4, use_wandb=False, max_num_workers=4), [nobody]

    async def setup(self):
        self.next_number = 0

    async def get_next_item(self):
        self.next_number += 1
        return self.next_number - 1

    async def collect_trajectories(self, item):
        await asyncio.sleep(0.01)
        prompt = self.tokenizer.encode("You are a careful agent.")
        answers = [self.tokenizer.encode(text) for text in ("Write", "Write the file", "run", "then finish.")]
        tokens = [[item + OFFSET, *prompt, *answer] for answer in answers]
        skipped = len(prompt) + 1
        group = {
            "tokens": tokens,
            "masks": [[-100] * skipped + row[skipped:] for row in tokens],
            "scores": [0.0, 0.25, 0.5, 1.0],
            "inference_logprobs": [[1.0] * skipped + [-0.5] * (len(row) - skipped) for row in tokens],
            "messages": [[{"role": "user", "content": f"{item}"}]] * 4,
        }
        return group, []

    async def evaluate(self, *args, **kwargs):
        pass


class Items(Numbers):
    """Gives one trajectory at a time, as most environments do; every fourth has nothing to give."""

    name = "items"
    collect_trajectories = BaseEnv.collect_trajectories

    async def collect_trajectory(self, item):
        if item % 4 == 3:
            raise RuntimeError(f"item {item} broke")
        tokens = [item + OFFSET, 5, 6, 7, 8]
        return {
            "tokens": tokens,
            "masks": [-100, 5, 6, -100, 8],
            "scores": item / 10,
            "messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": f"{item}"}],
            "inference_logprobs": [1.0, -0.5, -0.25, 1.0, -1.5],
        }, []


if __name__ == "__main__":
    Numbers.cli()
