"""`natgym train NAME`: all three services for one environment, without evaluations."""

import argparse

from core.settings import Settings
from services.commands import up

GIB = 1 << 30


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: those of `natgym up`, after the environment."""
    parser.add_argument("name", metavar="ENVIRONMENT")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and the memory it needs, and end")
    up.configure(parser)
    parser.set_defaults(eval_tasks=0)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Run; 0 when all steps were made, 1 when a service died."""
    if arguments.dry_run:
        return _dry_run(arguments, settings)
    return up.run_up(arguments, settings, arguments.name)


def _dry_run(arguments: argparse.Namespace, settings: Settings) -> int:
    import json

    from services.arena import make_environment
    from services.run_file import NAT_SMALL, run_file
    from services.trainer_server.config import TrainerServerConfig
    from trainer.algorithms.base import ALGORITHMS
    from trainer.memory import memory_needed

    file = run_file(arguments, NAT_SMALL).with_flags(
        trainer__model=arguments.model,
        trainer__seed=arguments.seed,
        trainer__groups_per_batch=arguments.groups_per_batch,
        trainer__group_size=arguments.group_size,
        trainer__loop__max_steps=arguments.steps,
    )
    make_environment(arguments.name, file, settings)
    config = file.section("trainer", TrainerServerConfig)
    algorithm = ALGORITHMS.load(config.algorithm.name)(config.algorithm)
    memory = memory_needed(config, with_reference=algorithm.needs_reference)
    resolved = {**file.sections().model_dump(mode="json", exclude_defaults=True), "trainer": config.model_dump(mode="json")}
    if arguments.json:
        print(json.dumps({"config": resolved, "memory": memory._asdict()}))
        return 0
    print(json.dumps(resolved, indent=2))
    for part, size in memory.parts.items():
        print(f"{part:22} {size / GIB:9.3f} GiB")
    print(f"{'memory':22} {memory.total / GIB:9.3f} GiB   {memory.learned:,} of {memory.parameters:,} parameters learn")
    return 0
