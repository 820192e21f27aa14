"""`natgym process NAME --out f.jsonl`: SFT data from rollouts, without any other service."""

import argparse
import json
import sys
from pathlib import Path

from core.settings import Settings
from core.types import ScoredGroup
from services.run_file import RunFile, add_run_file_arguments, run_file


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="ENVIRONMENT")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="ShareGPT rows, one JSON object a line")
    parser.add_argument("--groups", type=int, default=100, help="tasks to play (100)")
    parser.add_argument("--group-size", type=int, default=4, help="episodes of each task (4)")
    parser.add_argument("--min-reward", type=float, default=0.0, help="what an episode has to earn to become a row (0)")
    parser.add_argument("--policy", default="gold", help="gold, expert, an address or a model directory (gold)")
    parser.add_argument("--seed", type=int, default=0, help="of the expert's mistakes (0)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_run_file_arguments(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Play, write rows, print what was made."""
    from services.main_task import run_main

    run_main(_process(arguments, run_file(arguments), settings))
    return 0


async def _process(arguments: argparse.Namespace, file: RunFile, settings: Settings) -> None:
    from core.config import validated
    from environments.process import ProcessConfig, generate
    from services.arena import make_environment, open_arena
    from services.commands.counter import Counter
    from services.policies import named_policy

    wanted = {"groups": arguments.groups, "group_size": arguments.group_size, "min_reward": arguments.min_reward}
    config = validated(ProcessConfig, wanted, "natgym process")
    make_environment(arguments.name, file, settings)  # a mistake in it is told before a model is loaded
    counter = Counter("groups", config.groups)

    def count(group: ScoredGroup) -> None:
        counter.add()

    async with (
        named_policy(arguments.policy, file, settings, arguments.seed) as policy,
        open_arena(arguments.name, file, settings, policy) as arena,
    ):
        report = await generate(arena, config, arguments.out, count)
    counter.close()
    if arguments.json:
        print(json.dumps({**report.model_dump(), "out": str(arguments.out)}))
        return
    print(
        f"{arguments.name}   {report.groups} groups   {report.rows} rows   "
        f"{report.below_min_reward} below {arguments.min_reward:g}   {report.lost} lost   {arguments.out}",
        file=sys.stdout,
    )
