"""`natgym check NAME`: the gold answer of each task through the loop, the tools and the reward; each must succeed."""

import argparse
import json

from core.settings import Settings
from services.run_file import RunFile, add_run_file_arguments, run_file

WORST_SHOWN = 10


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="ENVIRONMENT")
    parser.add_argument("--limit", type=int, help="the first so many tasks of each split (all)")
    parser.add_argument("--concurrent", type=int, default=8, help="episodes at once (8)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_run_file_arguments(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Play the gold answers; 0 where each of them succeeded."""
    from services.main_task import run_main

    return run_main(_check(arguments, run_file(arguments), settings))


async def _check(arguments: argparse.Namespace, file: RunFile, settings: Settings) -> int:
    from core.config import validated
    from environments.base import Split
    from environments.evaluation import EvaluationConfig, evaluate, succeeded
    from services.arena import open_arena
    from services.commands.counter import Counter
    from services.policies import gold

    counts, wrong = dict[str, int](), list[str]()
    async with open_arena(arguments.name, file, settings, gold) as arena:
        for split in Split:
            wanted = {"tasks": arguments.limit, "concurrent": arguments.concurrent, "split": split}
            config = validated(EvaluationConfig, wanted, "natgym check")
            counter = Counter(f"{split} tasks", len(arena.environment.tasks(split)[: config.tasks]))
            _, trajectories = await evaluate(arena, config, lambda trajectory, counter=counter: counter.add())
            counter.close()
            counts[split.value] = len(trajectories)
            for one in trajectories:
                if not succeeded(one, config.success_reward):
                    why = one.failure.message if one.failure else f"reward {one.reward.parts if one.reward else None}"
                    wrong.append(f"{split.value} {one.task_id}: {why}")
    if arguments.json:
        print(json.dumps({"environment": arguments.name, "tasks": counts, "wrong": wrong}))
    else:
        _print(arguments.name, counts, wrong)
    return 1 if wrong else 0


def _print(name: str, counts: dict[str, int], wrong: list[str]) -> None:
    total = sum(counts.values())
    splits = ", ".join(f"{count} {split}" for split, count in counts.items())
    print(f"{name}   {total - len(wrong)} of {total} gold answers succeed   ({splits})")
    for line in wrong[:WORST_SHOWN]:
        print(f"  {line}")
    if len(wrong) > WORST_SHOWN:
        print(f"  and {len(wrong) - WORST_SHOWN} more (--json lists them)")
