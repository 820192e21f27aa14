"""`natgym check NAME`: the attacks and the gold answers of an environment, through the loop, the tools and the reward.

No attack may earn more than its honest part is worth; then each gold answer must succeed, also after those attacks.
"""

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from core.settings import Settings
from services.run_file import RunFile, add_run_file_arguments, run_file

if TYPE_CHECKING:  # the parser is built without them
    from rich.table import Table

    from environments.attack import AttackResult
    from environments.episode import Arena
    from environments.evaluation import EvaluationConfig

WORST_SHOWN = 10


class GoldResult(NamedTuple):
    """What the gold answers of one split came to."""

    split: str
    tasks: int
    wrong: list[str]
    figures: dict[str, float]
    """The environment's own report."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="ENVIRONMENT")
    parser.add_argument("--limit", type=int, help="the first so many tasks of each split (all)")
    parser.add_argument("--concurrent", type=int, default=8, help="episodes at once (8)")
    parser.add_argument("--no-attacks", action="store_true", help="play the gold answers alone")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_run_file_arguments(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Play attacks and gold answers; 0 where no attack won and each gold answer succeeded."""
    from services.main_task import run_main

    return run_main(_check(arguments, run_file(arguments), settings))


async def _check(arguments: argparse.Namespace, file: RunFile, settings: Settings) -> int:
    from core.config import validated
    from environments.base import Split
    from environments.evaluation import EvaluationConfig
    from services.arena import open_arena
    from services.policies import gold

    wanted = {"tasks": arguments.limit, "concurrent": arguments.concurrent}
    configs = [validated(EvaluationConfig, {**wanted, "split": split}, "natgym check") for split in Split]
    async with open_arena(arguments.name, _thorough(arguments.name, file), settings, gold) as arena:
        arena.environment.tasks(Split.TRAIN)  # a broken data set is told before anything is played
        attacks = [] if arguments.no_attacks else await _attack(arena, arguments.concurrent)
        golds = [await _play_gold(arena, config) for config in configs]
    wrong = [f"{one.split} {problem}" for one in golds for problem in one.wrong]
    won = [f"{one.name}: {', '.join(one.problems)}" for one in attacks if one.problems]
    if arguments.json:
        tasks = {one.split: one.tasks for one in golds}
        figures = {one.split: one.figures for one in golds}
        facts = {"environment": arguments.name, "tasks": tasks, "wrong": wrong, "figures": figures}
        print(json.dumps({**facts, "attacks": [one.model_dump() for one in attacks], "won": won}))
    else:
        _print(arguments.name, golds, attacks, [*wrong, *won])
    return 1 if wrong or won else 0


def _thorough(name: str, file: RunFile) -> RunFile:
    """The file with the settings under which an environment's attacks are held off, where it does not say otherwise."""
    from services.arena import environment_type

    wanted = environment_type(name).check_settings
    told = file.sections().env
    return file.with_flags(**{f"env__{key}": value for key, value in wanted.items() if key not in told})


async def _attack(arena: "Arena", concurrent: int) -> "list[AttackResult]":
    from environments.attack import play_attacks
    from services.commands.counter import Counter

    offered = arena.environment.attacks()
    if not offered:
        return []
    counter = Counter("attacks", len(offered))
    results = await play_attacks(arena, offered, concurrent, lambda trajectory: counter.add())
    counter.close()
    return results


async def _play_gold(arena: "Arena", config: "EvaluationConfig") -> GoldResult:
    from environments.evaluation import evaluate, succeeded
    from services.commands.counter import Counter

    counter = Counter(f"{config.split} tasks", len(arena.environment.tasks(config.split)[: config.tasks]))
    report, trajectories = await evaluate(arena, config, lambda trajectory: counter.add())
    counter.close()
    wrong = [
        f"{one.task_id}: {one.failure.message if one.failure else f'reward {one.reward.parts if one.reward else None}'}"
        for one in trajectories
        if not succeeded(one, config.success_reward)
    ]
    return GoldResult(config.split.value, len(trajectories), wrong, report.figures)


def _print(name: str, golds: Sequence[GoldResult], attacks: "Sequence[AttackResult]", problems: Sequence[str]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if attacks:
        console.print(_attack_table(attacks))
    console.print(_gold_table(golds))
    total, wrong = sum(one.tasks for one in golds), sum(len(one.wrong) for one in golds)
    held = sum(not one.problems for one in attacks)
    line = f"{name}   {total - wrong} of {total} gold answers succeed"
    print(f"{line}   {held} of {len(attacks)} attacks earn no more than their honest part" if attacks else line)
    for problem in problems[:WORST_SHOWN]:
        print(f"  {problem}")
    if len(problems) > WORST_SHOWN:
        print(f"  and {len(problems) - WORST_SHOWN} more (--json lists them)")


def _attack_table(attacks: "Sequence[AttackResult]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    figures = list(dict.fromkeys(figure for one in attacks for figure in one.at_most))
    table = Table("attack", *[f"{figure}\nof at most" for figure in figures], "", box=None, pad_edge=False)
    for one in attacks:
        cells = [f"{one.found[figure]:.2f} of {one.at_most[figure]:.2f}" if figure in one.found else "" for figure in figures]
        table.add_row(Text(one.name), *cells, Text("WON", "bold red") if one.problems else Text("held", "green"))
    return table


def _gold_table(golds: Sequence[GoldResult]) -> "Table":
    from rich.table import Table

    figures = list(dict.fromkeys(figure for one in golds for figure in one.figures))
    table = Table("gold answers", "succeed", *figures, box=None, pad_edge=False)
    for one in golds:
        cells = [f"{one.figures[figure]:.3f}" if figure in one.figures else "" for figure in figures]
        table.add_row(one.split, f"{one.tasks - len(one.wrong)} of {one.tasks}", *cells)
    return table
