"""`natgym dataset NAME --out f.parquet`: the specifications of an environment, made anew or from rows of one's own."""

import argparse
import json
from pathlib import Path

from core.errors import UnknownName, UserError
from core.settings import Settings

MADE_HERE = ("nat_agent",)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="ENVIRONMENT")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the parquet file to write (ENVIRONMENT.parquet)")
    parser.add_argument("--train", type=int, default=900, help="specifications to learn from (900)")
    parser.add_argument(
        "--validation", "--held-out", type=int, default=100, help="specifications that are only measured on (100)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mix", default="small", help="small: what the shipped policy knows; full: every scaffold and family")
    parser.add_argument(
        "--rows", type=Path, metavar="FILE", help="rows of your own, parquet or JSON lines, in place of new ones"
    )
    parser.add_argument(
        "--broken-rows", choices=("refuse", "skip"), default="refuse", help="what becomes of such a file (refuse)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Write the file and say what is in it."""
    if arguments.name not in MADE_HERE:
        raise UnknownName("environment with a dataset of its own", arguments.name, MADE_HERE)
    out = arguments.out or Path(f"{arguments.name}.parquet")
    train, held_out = _take(arguments, out) if arguments.rows else _make(arguments, out)
    if arguments.json:
        print(json.dumps({"train": train, "held_out": held_out, "out": str(out)}))
    else:
        print(f"{arguments.name}   {train} train   {held_out} held out   {out}")
    return 0


def _make(arguments: argparse.Namespace, out: Path) -> tuple[int, int]:
    from environments.nat_agent.dataset import make_dataset
    from environments.nat_agent.requests import Mix

    if arguments.train < 1 or arguments.validation < 1:
        raise UserError(f"--train {arguments.train} --validation {arguments.validation}: both have to be at least 1")
    if arguments.mix not in set(Mix):
        raise UnknownName("mix", arguments.mix, [mix.value for mix in Mix])
    make_dataset(out, train=arguments.train, held_out=arguments.validation, seed=arguments.seed, mix=Mix(arguments.mix))
    return arguments.train, arguments.validation


def _take(arguments: argparse.Namespace, out: Path) -> tuple[int, int]:
    """Check the user's own rows and write those that are specifications."""
    from environments.base import Split
    from environments.nat_agent.dataset import BrokenRows, read_specs, write_specs

    rows = list(read_specs(arguments.rows, BrokenRows(arguments.broken_rows)))
    if not rows:
        raise UserError(f"{arguments.rows}: no row is a specification")
    write_specs(out, rows)
    train = sum(split is Split.TRAIN for split, _ in rows)
    return train, len(rows) - train
