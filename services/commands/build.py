"""`natgym build "a request in words"`: a NAT agent from a sentence.

The offline planner makes the plan, the policy plays episodes of it as in training, and each deliverable is tried on NAT at
the full level. The first one that passes every check is written.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import ConfigError, NatgymError
from core.settings import Settings
from services.run_file import RunFile, add_run_file_arguments, run_file

if TYPE_CHECKING:
    from environments.nat_agent.build import Built
    from environments.nat_agent.plan import AgentSpec

BUILDER = "environments.nat_agent.build:NatBuilder"


class NotBuilt(NatgymError):
    """No attempt was complete."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("request", help='such as "Build Ada an agent that plans ahead: convert miles to kilometers."')
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where the agent goes: a folder that is new or empty"
    )
    parser.add_argument("--policy", help="an address, a model directory, gold or expert (the policy of the project)")
    parser.add_argument("--attempts", type=int, default=8, metavar="N", help="how often it is tried until all checks pass (8)")
    parser.add_argument("--seed", type=int, default=0, help="of the expert's mistakes (0)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_run_file_arguments(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Plan, build, write the files, and say what was checked."""
    from environments.nat_agent.build import project_file
    from environments.nat_agent.planner import plan_request
    from services.main_task import run_main
    from services.openai_section import with_openai

    if arguments.attempts < 1:
        raise ConfigError(f"--attempts: expected at least 1, found {arguments.attempts}")
    folder: Path = arguments.out
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: exists and is not an empty folder; choose another by --out DIR")
    spec = plan_request(arguments.request, f"build-{hashlib.sha256(arguments.request.encode()).hexdigest()[:12]}")
    file = with_openai(run_file(arguments))
    if "level" not in file.sections().env:
        file = file.with_flags(env__level="full")
    number, built = run_main(_build(arguments, file, settings, spec))
    files = {"pyproject.toml": project_file(spec.plan), **built.files}
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if arguments.json:
        print(json.dumps({"attempts": number, "out": str(folder), "files": sorted(files), **built.scores}))
    else:
        print(f"built   {_scores(built)}   attempt {number}   {folder}   {', '.join(sorted(files))}")
    return 0


async def _build(arguments: argparse.Namespace, file: RunFile, settings: Settings, spec: "AgentSpec") -> "tuple[int, Built]":
    """The first complete deliverable and the number of its attempt. Raises NotBuilt."""
    from environments.nat_agent.build import Built, attempt
    from services.arena import open_arena
    from services.commands.counter import Counter
    from services.openai_section import served_by
    from services.policies import named_policy
    from services.policy_folder import SHIPPED_POLICY

    answerer = arguments.policy or served_by(file) or str(SHIPPED_POLICY)
    counter, ends = Counter("attempts", arguments.attempts), list[str]()
    async with (
        named_policy(answerer, file, settings, arguments.seed) as policy,
        open_arena(BUILDER, file, settings, policy) as arena,
    ):
        for number in range(1, arguments.attempts + 1):
            made = await attempt(arena, spec, number)
            if isinstance(made, Built) and made.complete:
                counter.close()
                return number, made
            lost = "" if isinstance(made, Built) else f"{made.failure.boundary}: {made.failure.message}" if made.failure else ""
            ends.append(_scores(made) if isinstance(made, Built) else lost)
            counter.add()
    counter.close()
    raise NotBuilt(f"none of {len(ends)} attempts passed all checks, and nothing was written; the last one: {ends[-1]}")


def _scores(built: "Built") -> str:
    return "   ".join(f"{name.replace('_', ' ')} {score:.2f}" for name, score in built.scores.items())
