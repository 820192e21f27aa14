"""`natgym sft --data f.jsonl`: a policy learns what `natgym process` wrote; `natgym up --model DIR` starts from the result.

The loss counts what the assistant wrote, and nothing else. A run that was killed goes on at its last save.
"""

import argparse
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from core.settings import Settings
from core.types import JsonObject
from services.policy_folder import SHIPPED_POLICY

if TYPE_CHECKING:
    from trainer.sft import SftConfig
    from trainer.sft_rows import SftRow


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    data = "rows of `natgym process` in any of its formats, JSON lines or parquet; may be given again"
    parser.add_argument("--data", type=Path, action="append", required=True, metavar="FILE", help=data)
    parser.add_argument("--model", type=Path, default=SHIPPED_POLICY, metavar="DIR", help="what learns (the shipped policy)")
    parser.add_argument("--out", type=Path, default=Path("runs/sft"), metavar="DIR", help="where the result goes (runs/sft)")
    parser.add_argument("--epochs", type=int, default=3, help="times that each row is learnt from (3)")
    parser.add_argument("--steps", type=int, help="at most so many optimiser steps (all of the epochs)")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="the highest of the schedule (3e-4)")
    parser.add_argument("--tokens-per-step", type=int, default=5000, help="about so many tokens a step (5000)")
    parser.add_argument("--max-tokens", type=int, help="the longest row (what the model takes)")
    parser.add_argument("--save-every", type=int, default=100, help="steps; what is lost at most when it is killed (100)")
    parser.add_argument("--threads", type=int, default=2, help="of the processor (2)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the rows (0)")
    parser.add_argument("--broken-rows", choices=("refuse", "skip"), default="refuse", help="what becomes of one (refuse)")
    parser.add_argument("--dry-run", action="store_true", help="read and count everything, and train nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Read all rows, learn, write the model, and say what became of the loss."""
    from trainer.sft_rows import batches

    _check(arguments)
    rows = list(_rows(arguments))
    orders = [_shuffled(rows, arguments.seed + epoch) for epoch in range(arguments.epochs)]
    packs = [pack for ordered in orders for pack in batches(ordered, arguments.tokens_per_step)][: arguments.steps]
    told: dict[str, object] = {
        "rows": len(rows),
        "tokens": sum(len(row.token_ids) for row in rows),
        "learnt_tokens": sum(sum(row.loss_mask) for row in rows),
        "longest": max(len(row.token_ids) for row in rows),
        "steps": len(packs),
    }
    if not arguments.dry_run:
        told |= _learn(arguments, packs, _config(arguments, len(packs)))
        told["out"] = str(arguments.out)
    print(json.dumps(told) if arguments.json else _line(told))
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Tell what the user can mend before anything is loaded."""
    from core.errors import ConfigError, MissingRuntime

    for name in ("epochs", "steps", "tokens_per_step", "save_every", "max_tokens"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: expected at least 1, found {value}")
    _config(arguments, 1)
    if not (arguments.model / "config.json").is_file():
        raise MissingRuntime(f"there is no model at {arguments.model}: expected a Hugging Face directory with a config.json")
    if arguments.out.exists() and not (arguments.out / "config.json").is_file() and any(arguments.out.iterdir()):
        raise ConfigError(f"{arguments.out}: holds something that is no model; choose another folder")


def _config(arguments: argparse.Namespace, steps: int) -> "SftConfig":
    from core.config import validated
    from trainer.sft import SftConfig

    told = {name: getattr(arguments, name) for name in ("learning_rate", "seed", "threads")}
    # a schedule of a few steps has no room for the usual warm-up
    return validated(SftConfig, {**told, "steps": steps, "warmup_steps": min(30, steps // 10)}, "natgym sft")


def _rows(arguments: argparse.Namespace) -> "Iterator[SftRow]":
    """All rows as token ids, in the order of the files. Raises BadData naming file and row, also for one that is too long."""
    from core.errors import BadData
    from core.logs import get_logger
    from environments.demonstrations import read_demonstrations
    from environments.rows import BrokenRows
    from tool_call_parsers.rendering import Renderer
    from trainer.sft_rows import conversation_rows

    renderer, broken = Renderer.from_directory(arguments.model), BrokenRows(arguments.broken_rows)
    longest, read = arguments.max_tokens or _model_length(arguments.model), 0
    for path in arguments.data:
        for number, found in read_demonstrations(path, broken):
            for row in (row for one in found for row in conversation_rows(renderer, *one)):
                if longest is None or len(row.token_ids) <= longest:
                    read += 1
                    yield row
                    continue
                problem = f"{path}: row {number}: the conversation: {len(row.token_ids)} tokens, at most {longest} fit"
                if broken is BrokenRows.REFUSE:
                    raise BadData(f"{problem}; `--broken-rows skip` leaves such rows out")
                get_logger("sft").warning("row_skipped", problem=problem)
    if not read:
        raise BadData(f"{', '.join(map(str, arguments.data))}: no row to learn from")


def _model_length(directory: Path) -> int | None:
    """Tokens that the model takes, as its config says; None where it does not."""
    from core.config import read_file

    found = read_file(directory / "config.json").get("max_position_embeddings")
    return found if isinstance(found, int) else None


def _shuffled(rows: "list[SftRow]", seed: int) -> "list[SftRow]":
    return random.Random(seed).sample(rows, len(rows))


def _learn(arguments: argparse.Namespace, packs: "list[list[SftRow]]", config: "SftConfig") -> dict[str, object]:
    """The loss of the first and of the last step; the model lies in the output directory afterwards."""
    import torch

    from services.commands.counter import Counter
    from trainer.model_folder import read_model
    from trainer.sft import train_sft
    from trainer.sft_save import SftSave
    from trainer.weights import save_model

    told: JsonObject = {
        **config.model_dump(exclude={"threads"}),
        "model": str(arguments.model),
        "rows": hashlib.sha256(repr(packs).encode()).hexdigest()[:16],
    }
    save = SftSave(arguments.out.with_name(f"{arguments.out.name}.unfinished.pt"), told, arguments.save_every)
    model = read_model(arguments.model, torch.float32)
    counter, losses = Counter("steps", config.steps), list[float]()

    def count(step: int, loss: float, seconds: float) -> None:
        counter.add()
        losses.append(loss)

    train_sft(model, packs, config, count, save)
    counter.close()
    save_model(model.state_dict(), arguments.model, arguments.out)
    save.remove()
    return {"first_loss": losses[0], "last_loss": losses[-1]} if losses else {}


def _line(told: dict[str, object]) -> str:
    counted = f"sft   {told['rows']} rows   {told['tokens']:,} tokens, {told['learnt_tokens']:,} to learn"
    counted = f"{counted}   longest {told['longest']:,}   {told['steps']} steps"
    if "out" not in told:
        return f"{counted}   nothing was trained"
    losses = f"   loss {told['first_loss']:.3f} -> {told['last_loss']:.3f}" if "last_loss" in told else ""
    return f"{counted}{losses}   {told['out']}"
