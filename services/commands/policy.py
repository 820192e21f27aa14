"""`natgym policy --out DIR`: make the policy that comes with the project anew, from nothing.

The scripted expert is played on fresh specifications of the training side, in real sandboxes and through the real
reward, and taken up where it stopped; a tokenizer is made of what was said; a new model learns the demonstrations.
Hours on two cores, no GPU. See docs/warm-start.md.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import ConfigError
from core.settings import Settings
from core.types import JsonObject, Message, Role
from services.run_file import RunFile

if TYPE_CHECKING:
    from environments.demonstrations import Demonstration

CORPUS_ROWS = 4000  # conversations that the tokenizer is made of
TOKENS_PER_STEP = 5000  # padding included
SPECS_SEED = 1  # the shipped dataset is made with 0


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--out", type=Path, default=Path("runs/policy"), metavar="DIR", help="the model directory")
    parser.add_argument("--work", type=Path, default=Path("runs/policy-work"), metavar="DIR", help="what is made on the way")
    parser.add_argument("--episodes", type=int, default=80_000, help="demonstrations to play (80000)")
    parser.add_argument("--steps", type=int, default=3400, help="optimiser steps (3400)")
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Play, make the tokenizer, train, and say where the policy lies."""
    from services.main_task import run_main

    for name in ("episodes", "steps"):
        if (value := getattr(arguments, name)) < 1:
            raise ConfigError(f"--{name}: expected at least 1, found {value}")
    for folder in (arguments.out.parent, arguments.work):
        folder.mkdir(parents=True, exist_ok=True)  # what cannot be made is told now, and not hours later
    rows = arguments.work / "demonstrations.jsonl"
    run_main(_demonstrate(arguments, rows, settings))
    _learn(arguments, rows)
    print(f"policy   {arguments.out}")
    return 0


async def _demonstrate(arguments: argparse.Namespace, rows: Path, settings: Settings) -> None:
    """Play the expert, one episode a specification, and keep every episode whatever it earned."""
    from environments.nat_agent.dataset import make_dataset
    from environments.nat_agent.reward import LOWEST
    from environments.process import ProcessConfig, generate
    from services.arena import open_arena
    from services.commands.counter import Counter
    from services.policies import named_policy

    specs = arguments.work / "specs.parquet"
    if not specs.is_file():
        make_dataset(specs, train=arguments.episodes, held_out=1, seed=SPECS_SEED)
    file = RunFile().with_flags(env__dataset=str(specs))
    counter = Counter("demonstrations", arguments.episodes)
    config = ProcessConfig(groups=arguments.episodes, group_size=1, min_reward=LOWEST)
    async with (
        named_policy("expert", file, settings, arguments.seed) as policy,
        open_arena("nat_agent", file, settings, policy) as arena,
    ):
        await generate(arena, config, rows, lambda group: counter.add())
    counter.close()


def _learn(arguments: argparse.Namespace, rows: Path) -> None:
    """Tokenizer and model from the rows, into the output directory."""
    from itertools import islice

    from environments.nat_agent.lexicon import copied_words
    from services.commands.counter import Counter
    from tool_call_parsers.chat_template import ChatTemplate
    from tool_call_parsers.rendering import Renderer
    from trainer.sft import SftConfig, new_policy, train_sft
    from trainer.sft_rows import batches, conversation_rows
    from trainer.tokenizer import TEMPLATE, build_tokenizer, save_tokenizer
    from trainer.weights import WeightFormat, save_model

    template = ChatTemplate(TEMPLATE.read_text(encoding="utf-8"), {})
    corpus = [
        template.text(_as_sampled(one), [tool.to_openai() for tool in one.tools], generation_prompt=False)
        for one in islice(_demonstrations(rows), CORPUS_ROWS)
    ]
    untrained = arguments.work / "untrained"
    save_tokenizer(build_tokenizer(corpus, copied_words()), untrained)
    renderer = Renderer.from_directory(untrained)
    model = new_policy(untrained, renderer, arguments.seed)
    learnt = (row for one in _demonstrations(rows) for row in conversation_rows(renderer, *one))
    counter = Counter("steps", arguments.steps)
    config = SftConfig(steps=arguments.steps, seed=arguments.seed)
    train_sft(model, batches(learnt, TOKENS_PER_STEP), config, lambda step, loss, seconds: counter.add())
    counter.close()
    save_model(model.state_dict(), untrained, arguments.out, WeightFormat.FLOAT16)


def _demonstrations(rows: Path) -> "Iterator[Demonstration]":
    from environments.demonstrations import read_demonstrations

    return (one for _, found in read_demonstrations(rows) for one in found)


def _as_sampled(one: "Demonstration") -> list[JsonObject]:
    """The messages with what the assistant sampled as plain text: that is what the tokenizer has to spell."""
    spoken = iter(one.spoken)
    texts = [next(spoken) if message.role is Role.ASSISTANT else None for message in one.messages]
    return [
        message.to_openai() if text is None else Message(role=message.role, content=text).to_openai()
        for message, text in zip(one.messages, texts, strict=True)
    ]
