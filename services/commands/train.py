"""`natgym train NAME`: all three services for one environment, without evaluations."""

import argparse
from typing import TYPE_CHECKING

from core.settings import Settings
from services.commands import up

if TYPE_CHECKING:
    from pydantic import JsonValue

    from services.trainer_server.config import TrainerServerConfig
    from trainer.memory import Memory

GIB = 1 << 30


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: those of `natgym up`, after the environment."""
    parser.add_argument("name", metavar="ENVIRONMENT")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and what the run needs, and end")
    up.configure(parser)
    parser.set_defaults(eval_tasks=0)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Run; 0 when all steps were made, 1 when a service died."""
    if arguments.dry_run:
        return _dry_run(arguments, settings)
    return up.run_up(arguments, settings, arguments.name)


def _dry_run(arguments: argparse.Namespace, settings: Settings) -> int:
    import json

    from environments.policy import PolicyConfig
    from services.arena import make_environment
    from services.run_check import check_agreement
    from services.run_file import NAT_SMALL, run_file
    from services.trainer_server.config import TrainerServerConfig

    file = run_file(arguments, NAT_SMALL).with_flags(
        trainer__model=arguments.model,
        trainer__seed=arguments.seed,
        trainer__groups_per_batch=arguments.groups_per_batch,
        trainer__group_size=arguments.group_size,
        trainer__loop__max_steps=arguments.steps,
    )
    check_agreement(file.sections())
    make_environment(arguments.name, file, settings)
    config = file.section("trainer", TrainerServerConfig)
    resolved = {**file.sections().model_dump(mode="json", exclude_defaults=True), "trainer": config.model_dump(mode="json")}
    needs, told, lines = _needs(config, file.with_flags(policy__kind="server").section("policy", PolicyConfig).max_tokens)
    if arguments.json:
        print(json.dumps({"config": resolved, needs: told}))
        return 0
    print("\n".join([json.dumps(resolved, indent=2), *lines]))
    return 0


def _needs(config: "TrainerServerConfig", longest: int) -> "tuple[str, dict[str, JsonValue], list[str]]":
    """What the run will need, as a name, as figures, and as lines: memory here, or a service elsewhere.

    `longest` is the number of tokens that a conversation may have.
    """
    from trainer.algorithms.base import ALGORITHMS
    from trainer.engines.tinker_engine import TinkerEngineConfig, plan
    from trainer.memory import memory_needed

    algorithm = ALGORITHMS.load(config.algorithm.name)(config.algorithm)
    if isinstance(config.engine, TinkerEngineConfig):
        service = plan(config.model, config.engine, algorithm)
        return "service", dict(service), [f"{part:22} {text}" for part, text in service.items()]
    sampler = config.inference.model_copy(update={"max_length": min(longest, config.inference.max_length)})
    memory = memory_needed(
        config, with_reference=algorithm.needs_reference, sampler=sampler if config.external is None else None
    )
    return "memory", memory._asdict(), _memory_lines(memory)


def _memory_lines(memory: "Memory") -> list[str]:
    each = f" in each of {memory.processes} processes" if memory.processes > 1 else ""
    learned = f"{memory.learned:,} of {memory.parameters:,} parameters learn"
    lines = [f"{part:22} {size / GIB:9.3f} GiB" for part, size in memory.parts.items()]
    lines.append(f"{'memory':22} {memory.total / GIB:9.3f} GiB{each}   {learned}")
    if memory.host:
        lines += [f"{part:22} {size / GIB:9.3f} GiB of the host's memory" for part, size in memory.host.items()]
        lines.append(f"{'host memory':22} {memory.host_total / GIB:9.3f} GiB for all processes together")
    return lines
