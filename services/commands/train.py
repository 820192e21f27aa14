"""`natgym train NAME`: all three services for one environment, without evaluations."""

import argparse

from core.settings import Settings
from services.commands import up


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: those of `natgym up`, after the environment."""
    parser.add_argument("name", metavar="ENVIRONMENT")
    up.configure(parser)
    parser.set_defaults(eval_tasks=0)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Run; 0 when all steps were made, 1 when a service died."""
    return up.run_up(arguments, settings, arguments.name)
