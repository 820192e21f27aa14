"""`natgym up`: the main job. Three services here, a small policy, live progress, and what it was good for."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from core.settings import Settings
from services.run_file import add_run_file_arguments, overrides_of

if TYPE_CHECKING:
    from services.dashboard.progress import View
    from services.up.folder import RunFolder, UpOptions

GIVEN = ("config", "model", "steps", "seed", "groups_per_batch", "group_size", "minutes", "eval_tasks", "eval_samples")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments. What is not given has the value of the run's file, or of the run that is resumed."""
    parser.add_argument("--steps", type=int, help="updates of the policy (36)")
    parser.add_argument("--seed", type=int, help="of sampling, task order and shuffling (0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where everything of the run goes (runs/NUMBER)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--groups-per-batch", type=int, help="tasks of one update (8)")
    parser.add_argument("--group-size", type=int, help="episodes of one task (8)")
    parser.add_argument("--minutes", type=float, help="end the training after so long, however many steps were made")
    parser.add_argument("--eval-tasks", type=int, help="held-out tasks before and after; 0: none (100)")
    parser.add_argument("--eval-samples", type=int, help="episodes of each of them (2)")
    parser.add_argument("--model", metavar="DIR", help="the policy to start from (the one that comes with natgym)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON at the end")
    add_run_file_arguments(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Run; 0 when all steps were made, 1 when a service died."""
    return run_up(arguments, settings, "nat_agent")


def run_up(arguments: argparse.Namespace, settings: Settings, environment: str, **fixed: object) -> int:
    """A run of one environment; `fixed` are options that have no argument."""
    from core.config import validated
    from core.errors import UserError
    from services.up.folder import RunFolder, UpOptions, next_folder

    given: dict[str, object] = {name: value for name in GIVEN if (value := getattr(arguments, name)) is not None}
    given = {**given, **fixed, "environment": environment}
    if arguments.config is not None:
        given["config"] = str(arguments.config)
    if overrides := overrides_of(arguments):
        given["overrides"] = overrides
    folder = RunFolder(arguments.out or next_folder())
    if arguments.resume:
        if arguments.out is None:
            raise UserError("--resume: which run? name its folder by --out DIR")
        options = folder.resumed(given)
    else:
        options = validated(UpOptions, given, "natgym up")
        _check(options, settings)
        folder.begin(options)
    return _run(options, folder, settings, as_json=arguments.json)


def _check(options: "UpOptions", settings: Settings) -> None:
    """Tell what the user can mend before a folder is made or a process started."""
    from backends.base import BACKENDS
    from core.errors import MissingRuntime
    from environments.base import Split
    from environments.policy import PolicyConfig
    from services.arena import RolloutsConfig, make_environment
    from services.policy_folder import SHIPPED_POLICY
    from services.rollout_api.server import RolloutApiConfig
    from services.run_check import check_agreement
    from services.run_file import NAT_SMALL, RunFile
    from tool_call_parsers.base import PARSERS

    file = RunFile(Path(options.config) if options.config else NAT_SMALL, options.overrides)
    check_agreement(file.sections())
    make_environment(options.environment, file, settings).tasks(Split.TRAIN)
    file.section("api", RolloutApiConfig)
    BACKENDS.load(file.section("rollouts", RolloutsConfig).backend)
    # which server and which tokenizer is known when the trainer answers
    PARSERS.load(file.with_flags(policy__kind="server").section("policy", PolicyConfig).parser)
    model = Path(options.model or str(file.sections().trainer.get("model", SHIPPED_POLICY)))
    if not (model / "config.json").is_file():
        raise MissingRuntime(f"there is no policy at {model}: `natgym policy` makes the one that comes with natgym")


def _run(options: "UpOptions", folder: "RunFolder", settings: Settings, *, as_json: bool) -> int:
    from services.main_task import Interrupted, run_main
    from services.up.run import UpRun, tail_of
    from services.up.summary import account_line, table_lines

    view = _view(as_json=as_json)
    try:
        with view:
            summary = run_main(UpRun(options, folder, settings, view).run())
    except Interrupted:
        print(f"stopped; `natgym up --resume --out {folder.path}` goes on", file=sys.stderr)
        raise
    except BaseException as error:
        for line in tail_of(error):
            print(f"  | {line}", file=sys.stderr)
        raise
    if as_json:
        print(summary.model_dump_json())
        return 0
    for line in table_lines(summary):
        print(line)
    print(account_line(summary))
    done = f"{summary.steps} steps   {_minutes(summary.seconds)}"
    print(f"{options.environment}   {done}   {folder.path}")
    return 0


def _view(*, as_json: bool) -> "View":
    """Drawn where a person looks; one line a step elsewhere, on standard error where the output is JSON."""
    if sys.stdout.isatty() and not as_json:
        from rich.console import Console

        from services.dashboard.live import LiveView

        if not (console := Console()).is_dumb_terminal:
            return LiveView(console)
    from services.dashboard.plain import PlainView

    return PlainView(sys.stderr if as_json else sys.stdout)


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s"
