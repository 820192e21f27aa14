"""`natgym plan "a request in words"`: the plan of the agent that was asked for.

Without an option no model and no key is needed: phrases that are known become tools. `--remote` asks Gemini 2.5 Pro,
`--server` any other OpenAI-compatible server; the key is NATGYM_OPENAI_API_KEY.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from core.settings import Settings

if TYPE_CHECKING:
    from environments.nat_agent.plan import AgentPlan


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("request", help='such as "Build Ada an agent that plans ahead: convert miles to kilometers."')
    parser.add_argument("--remote", action="store_true", help="let a model plan: Gemini 2.5 Pro unless told otherwise")
    parser.add_argument("--server", metavar="URL", help="the OpenAI-compatible server whose model plans; implies --remote")
    parser.add_argument("--model", metavar="NAME", help="the model that plans; implies --remote")
    parser.add_argument("--repairs", type=int, metavar="N", help="how often a wrong plan goes back to the model (3)")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="for one answer of the model (180)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the plan there as JSON")
    parser.add_argument("--json", action="store_true", help="print the whole plan as JSON")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Print what the coding agent would be told, or the plan as JSON."""
    from core.files import write_whole
    from environments.nat_agent.conversation import describe_fully

    plan = _plan(arguments, settings)
    if arguments.out is not None:
        write_whole(arguments.out, plan.model_dump_json(indent=2) + "\n")
    print(plan.model_dump_json(indent=2) if arguments.json else describe_fully(plan))
    return 0


def _plan(arguments: argparse.Namespace, settings: Settings) -> "AgentPlan":
    if arguments.remote or arguments.server or arguments.model:
        return _remote_plan(arguments, settings)
    from environments.nat_agent.planner import plan_request

    return plan_request(arguments.request).plan


def _remote_plan(arguments: argparse.Namespace, settings: Settings) -> "AgentPlan":
    from core.config import validated
    from environments.nat_agent.remote_planner import PlannerConfig, RemotePlanner
    from services.main_task import run_main

    flags = {
        "base_url": arguments.server,
        "model": arguments.model,
        "repairs": arguments.repairs,
        "timeout_seconds": arguments.timeout,
    }
    config = validated(PlannerConfig, {key: value for key, value in flags.items() if value is not None}, "natgym plan")

    async def ask() -> "AgentPlan":
        async with RemotePlanner(config, settings.openai_api_key) as planner:
            return await planner.plan(arguments.request)

    return run_main(ask())
