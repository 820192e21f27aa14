"""`natgym serve api | trainer | env NAME`: one service in this terminal, until Ctrl-C or SIGTERM."""

import argparse
from pathlib import Path

from core.errors import UnknownName, UserError
from core.settings import Settings
from services.run_file import NAT_SMALL, RunFile, add_run_file_arguments, run_file

SERVICES = ("api", "trainer", "env")
FLAGS_OF = {
    "host": ("api", "trainer"),
    "port": ("api", "trainer"),
    "api_url": ("trainer", "env"),
    "policy_url": ("env",),
    "database": ("api",),
    "model": ("trainer",),
    "out": ("trainer",),
    "resume": ("trainer",),
    "record": ("env",),
    "ray": ("env",),
    "run_api": ("env",),
    "atropos": ("env",),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("service", metavar="api | trainer | env NAME")
    parser.add_argument("name", nargs="?", help="the environment, for `serve env`")
    parser.add_argument("--host", help="address to listen on (127.0.0.1; any other needs NATGYM_API_TOKEN)")
    parser.add_argument("--port", type=int, help="port to listen on (api: 8000, trainer: 8001, 0: any free one)")
    parser.add_argument("--api-url", metavar="URL", help="the rollout API (http://127.0.0.1:8000)")
    parser.add_argument("--policy-url", metavar="URL", help="env: the trainer or another server (http://127.0.0.1:8001)")
    parser.add_argument("--database", metavar="FILE", help="api: where the queue is kept")
    parser.add_argument("--model", metavar="DIR", help="trainer: the policy to start from")
    parser.add_argument("--out", metavar="DIR", help="trainer: checkpoints and metrics.jsonl")
    parser.add_argument("--resume", action="store_true", help="trainer: go on with the run in --out")
    parser.add_argument("--record", type=Path, metavar="FILE", help="env: append a line per group")
    parser.add_argument("--ray", metavar="ADDRESS", help="env: a server on every node of that Ray cluster (auto, or HOST:PORT)")
    parser.add_argument("--run-api", metavar="URL", help="env: make groups for a run-api of Atropos in its place")
    parser.add_argument("--atropos", action="store_true", help="env: NAME is Atropos's, module:Class or file.py:Class")
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    add_run_file_arguments(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Serve; 0 when the service was asked to end or its run is finished."""
    if arguments.parent is not None:
        from services.parent import die_with

        die_with(arguments.parent)
    if arguments.service not in SERVICES:
        raise UnknownName("service", arguments.service, SERVICES)
    _refuse_others(arguments)
    {"api": _serve_api, "trainer": _serve_trainer, "env": _serve_env}[arguments.service](arguments, settings)
    return 0


def _refuse_others(arguments: argparse.Namespace) -> None:
    """What one service would pass over in silence. Raises UserError."""
    service = arguments.service
    if arguments.name is not None and service != "env":
        raise UserError(f"natgym serve {service}: takes no name, found {arguments.name!r}")
    for flag, services in FLAGS_OF.items():
        value = getattr(arguments, flag)
        given = value is not None and value is not False  # port 0 is a value
        if given and service not in services:
            dashed = flag.replace("_", "-")
            raise UserError(f"natgym serve {service}: --{dashed} is a setting of `natgym serve {' | '.join(services)}`")


def _serve_api(arguments: argparse.Namespace, settings: Settings) -> None:
    from services.rollout_api.access import Tokens
    from services.rollout_api.server import RolloutApiConfig, serve_api

    file = run_file(arguments, NAT_SMALL).with_flags(
        api__host=arguments.host, api__port=arguments.port, api__database=arguments.database
    )
    serve_api(file.section("api", RolloutApiConfig), Tokens.of(settings))


def _serve_trainer(arguments: argparse.Namespace, settings: Settings) -> None:
    from services.rollout_api.access import Role, Tokens
    from services.trainer_server.config import TrainerServerConfig
    from services.trainer_server.server import serve_trainer

    file = run_file(arguments, NAT_SMALL).with_flags(
        trainer__host=arguments.host,
        trainer__port=arguments.port,
        trainer__api_url=arguments.api_url,
        trainer__model=arguments.model,
        trainer__out=arguments.out,
    )
    config, rollout_token = file.section("trainer", TrainerServerConfig), Tokens.of(settings).for_role(Role.TRAINER)
    serve_trainer(config, settings.api_token, rollout_token, resume=arguments.resume)


def _serve_env(arguments: argparse.Namespace, settings: Settings) -> None:
    from environments.base import ENVIRONMENTS
    from services.arena import make_environment
    from services.environment_server.process import serve_environment
    from services.environment_server.task_order import tasks_to_train_on
    from services.main_task import run_main
    from services.openai_section import with_openai

    if arguments.name is None:
        raise UserError(f"natgym serve env: which environment? known: {', '.join(ENVIRONMENTS.names)}")
    file: RunFile = with_openai(run_file(arguments, NAT_SMALL)).with_flags(
        rollouts__api_url=arguments.api_url, policy__base_url=arguments.policy_url, rollouts__run_api__url=arguments.run_api
    )
    if arguments.atropos:
        _serve_atropos(arguments, file, settings)
        return
    # a mistake in its settings or data is told before anything is waited for
    tasks = tasks_to_train_on(make_environment(arguments.name, file, settings))
    if arguments.ray is None:
        run_main(serve_environment(arguments.name, file, settings, arguments.record))
        return
    if arguments.record is not None:
        raise UserError("--record: writes a file of one machine; it cannot be used with --ray")
    from services.environment_server.ray_fleet import joined, serve_fleet
    from services.environment_server.ray_server import Order

    with joined(arguments.ray) as ray:
        run_main(serve_fleet(ray, Order(arguments.name, file, settings), tuple(tasks)))


def _serve_atropos(arguments: argparse.Namespace, file: RunFile, settings: Settings) -> None:
    from services.environment_server.atropos_player import serve_atropos_environment
    from services.main_task import run_main

    if arguments.ray is not None:
        raise UserError("--ray: plays natgym's own environments; it cannot be used with --atropos")
    run_main(serve_atropos_environment(arguments.name, file, settings, arguments.record))
