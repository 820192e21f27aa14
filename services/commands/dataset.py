"""`natgym dataset NAME --out f.parquet`: the specifications of an environment, made anew."""

import argparse
import json
from pathlib import Path

from core.errors import UnknownName, UserError
from core.settings import Settings

MADE_HERE = ("nat_agent",)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="ENVIRONMENT")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the parquet file to write")
    parser.add_argument("--train", type=int, default=800, help="specifications to learn from (800)")
    parser.add_argument("--held-out", type=int, default=200, help="specifications that are only measured on (200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Write the file and say what is in it."""
    from environments.nat_agent.dataset import make_dataset

    if arguments.name not in MADE_HERE:
        raise UnknownName("environment with a dataset of its own", arguments.name, MADE_HERE)
    if arguments.train < 1 or arguments.held_out < 1:
        raise UserError(f"--train {arguments.train} --held-out {arguments.held_out}: both have to be at least 1")
    make_dataset(arguments.out, train=arguments.train, held_out=arguments.held_out, seed=arguments.seed)
    if arguments.json:
        print(json.dumps({"train": arguments.train, "held_out": arguments.held_out, "out": str(arguments.out)}))
    else:
        print(f"{arguments.name}   {arguments.train} train   {arguments.held_out} held out   {arguments.out}")
    return 0
