"""`natgym evaluate NAME --policy URL|DIR`: how good a policy is on the held-out tasks."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from core.settings import Settings
from core.types import Trajectory
from services.run_file import RunFile, add_run_file_arguments, run_file

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from environments.evaluation import EvaluationConfig
    from environments.evaluation_run import EvaluationRun


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from services.commands.cost import add_price_arguments

    parser.add_argument("name", metavar="ENVIRONMENT")
    parser.add_argument("--policy", help="an address, a model directory, gold or expert (the policy of the project)")
    parser.add_argument("--tasks", type=int, help="the first so many tasks (all)")
    parser.add_argument("--samples", type=int, default=1, help="episodes of each task (1)")
    parser.add_argument("--concurrent", type=int, default=32, help="episodes at once (32)")
    parser.add_argument("--split", default="held_out", choices=("held_out", "train"), help="which tasks (held_out)")
    parser.add_argument("--seed", type=int, default=0, help="of the expert's mistakes (0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("--run", type=Path, metavar="DIR", help="samples.jsonl, metrics.json, report.html; taken up again")
    parser.add_argument("--baseline", type=Path, metavar="DIR", help="compare with the --run of another evaluation")
    parser.add_argument("--progress", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    add_price_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    add_run_file_arguments(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Play, print the figures; 1 where no episode could be scored."""
    from services.main_task import run_main
    from services.openai_section import with_openai

    if arguments.parent is not None:
        from services.parent import die_with

        die_with(arguments.parent)
    return run_main(_evaluate(arguments, with_openai(run_file(arguments)), settings))


async def _evaluate(arguments: argparse.Namespace, file: RunFile, settings: Settings) -> int:
    from core.config import validated
    from core.files import write_whole
    from environments.evaluation import EvaluationConfig, evaluate
    from environments.evaluation_run import compare
    from services.arena import make_environment, open_arena
    from services.commands.cost import Cost
    from services.commands.counter import Counter
    from services.dashboard.report import baseline_lines, report_lines
    from services.openai_section import served_by
    from services.policies import named_policy
    from services.policy_folder import SHIPPED_POLICY

    wanted = {key: getattr(arguments, key) for key in ("tasks", "samples", "concurrent", "split")}
    config = validated(EvaluationConfig, wanted, "natgym evaluate")
    make_environment(arguments.name, file, settings)  # a mistake in it is told before a model is loaded
    answerer = arguments.policy or served_by(file) or str(SHIPPED_POLICY)
    cost = Cost(arguments)
    async with (
        named_policy(answerer, file, settings, arguments.seed) as policy,
        open_arena(arguments.name, file, settings, cost.counting(policy)) as arena,
    ):
        tasks = {task.id: task for task in arena.environment.tasks(config.split)[: config.tasks]}
        total = len(tasks) * config.samples
        counter = Counter("episodes", total, cost.now)
        with _opened(arguments, config, answerer) as evaluation:

            def count(trajectory: Trajectory) -> None:
                counter.add()
                if evaluation:
                    evaluation.add(tasks[trajectory.task_id], trajectory, config.success_reward)
                if arguments.progress:
                    with arguments.progress.open("a", encoding="utf-8") as progress:
                        progress.write(f"{trajectory.id} of {total}\n")

            counter.begin_at(len(evaluation.known) if evaluation else 0)
            report, played = await evaluate(arena, config, count, evaluation.known if evaluation else None)
            if evaluation:
                evaluation.finish(report, tasks, played)
    counter.close()
    if arguments.out:
        write_whole(arguments.out, report.model_dump_json(indent=2) + "\n")
    changed = compare(config, played, arguments.baseline) if arguments.baseline else None
    if arguments.json:
        print(
            json.dumps(report.model_dump(mode="json") | cost.facts() | ({"baseline": changed.model_dump()} if changed else {}))
        )
    else:
        print("\n".join([*report_lines(report), *(baseline_lines(changed) if changed else []), cost.line()]).rstrip())
    return 0 if report.success.samples else 1


def _opened(
    arguments: argparse.Namespace, config: "EvaluationConfig", answerer: str
) -> "AbstractContextManager[EvaluationRun | None]":
    """The folder that was asked for; None where none was."""
    from contextlib import nullcontext

    from environments.evaluation_run import EvaluationRun

    if arguments.run is None:
        return nullcontext()
    told = {"environment": arguments.name, "split": config.split.value, "policy": answerer, "settings": list(arguments.set)}
    return EvaluationRun(arguments.run, told)
