"""`natgym plan "a request in words"`: the plan of the agent that was asked for, without a model or a key."""

import argparse

from core.settings import Settings


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("request", help='such as "Build Ada an agent that plans ahead: convert miles to km."')
    parser.add_argument("--json", action="store_true", help="print the whole plan as JSON")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Print what the coding agent would be told, or the plan as JSON."""
    from environments.nat_agent.conversation import describe
    from environments.nat_agent.planner import plan_request

    plan = plan_request(arguments.request).plan
    print(plan.model_dump_json(indent=2) if arguments.json else describe(plan))
    return 0
