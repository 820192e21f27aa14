"""`natgym process NAME --out f.jsonl`: training data from rollouts, without any other service."""

import argparse
import json
from pathlib import Path

from core.settings import Settings
from services.run_file import RunFile, add_run_file_arguments, run_file

RESAMPLES = 2
"""A turn that cannot be read makes no row to learn from, so it is sampled again unless `policy.resamples` says otherwise."""
FORMATS = ("sharegpt", "openai", "groups", "pairs")  # environments.data_formats explains them


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from services.commands.cost import add_price_arguments

    parser.add_argument("name", metavar="ENVIRONMENT")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="rows, one JSON object a line; or FILE.parquet")
    parser.add_argument("--groups", type=int, default=100, help="tasks to play (100)")
    parser.add_argument("--group-size", type=int, default=4, help="episodes of each task (4)")
    parser.add_argument("--format", default="sharegpt", choices=FORMATS, help="of rows (sharegpt)")
    parser.add_argument("--min-reward", type=float, default=0.0, help="what an episode has to earn to become a row (0)")
    parser.add_argument("--top", type=int, metavar="N", help="the best N episodes of a group (all)")
    parser.add_argument("--max-malformed", type=int, metavar="N", help="at most N tool calls that could not be used (any)")
    parser.add_argument("--max-mistakes", type=int, metavar="N", help="at most N calls that used a tool wrongly (any)")
    parser.add_argument("--max-turns", type=int, metavar="N", help="at most N turns (any)")
    parser.add_argument("--max-characters", type=int, metavar="N", help="at most so long a conversation (any)")
    parser.add_argument("--unique", action="store_true", help="leave out episodes that say what another of their task said")
    parser.add_argument("--concurrent", type=int, default=4, help="groups at once (4)")
    parser.add_argument("--policy", help="gold, expert, an address or a model directory (openai.base_url, else gold)")
    parser.add_argument("--seed", type=int, default=0, help="of the expert's mistakes (0)")
    add_price_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_run_file_arguments(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Play, write rows, print what was made."""
    from services.main_task import run_main
    from services.openai_section import with_openai

    run_main(_process(arguments, with_openai(run_file(arguments)), settings))
    return 0


async def _process(arguments: argparse.Namespace, file: RunFile, settings: Settings) -> None:
    from core.config import validated
    from environments.data_formats import write_parquet
    from environments.process import ProcessConfig, generate
    from environments.selection import Selection
    from services.arena import RolloutsConfig, make_environment, open_arena
    from services.commands.cost import Cost
    from services.commands.counter import Counter
    from services.openai_section import served_by
    from services.policies import named_policy

    wanted = {key: getattr(arguments, key) for key in (*Selection.model_fields, "groups", "group_size")}
    wanted |= {"form": arguments.format, "concurrent_groups": arguments.concurrent}
    wanted["token_ids"] = not file.section("rollouts", RolloutsConfig).ephemeral_system_prompt.strip()
    config = validated(ProcessConfig, wanted, "natgym process")
    parquet = arguments.out.suffix == ".parquet"
    if "resamples" not in file.sections().policy:
        file = file.with_flags(policy__resamples=RESAMPLES)
    lines = arguments.out.with_name(f"{arguments.out.name}.jsonl") if parquet else arguments.out
    make_environment(arguments.name, file, settings)  # a mistake in it is told before a model is loaded
    cost = Cost(arguments)
    counter = Counter("groups", config.groups, cost.now)
    async with (
        named_policy(arguments.policy or served_by(file) or "gold", file, settings, arguments.seed) as policy,
        open_arena(arguments.name, file, settings, cost.counting(policy)) as arena,
    ):
        report = await generate(arena, config, lines, lambda group: counter.add(), counter.begin_at)
    counter.close()
    if parquet:
        write_parquet(lines, arguments.out)
    if arguments.json:
        print(json.dumps({**report.model_dump(), **cost.facts(), "out": str(arguments.out)}))
        return
    left_out = ", ".join(f"{number} left out ({reason})" for reason, number in report.left_out.items()) or "0 left out"
    left_out += f"   {report.rolled_back} turns rolled back" if report.rolled_back else ""
    told = [arguments.name, f"{report.groups} groups", f"{report.rows} rows", left_out, f"{report.lost} lost", cost.line()]
    print("   ".join(part for part in (*told, str(arguments.out)) if part))
