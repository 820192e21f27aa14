"""What a GPU makes of the trainer: tokens sampled, tokens learned from, and how soon new weights are sampled from.

    python -m benchmarks.gpu [--device cuda] [--only ROWS] [--repeats N] [--tiny] [--json] [--record]

A random Qwen3 of 0.5 billion parameters in bfloat16. `decode`: 64 prompt tokens and 128 new ones for 1, 32 and 256
completions at once, over HTTP by /generate with ids and logprobs, beside the continuous batching of transformers
(`generate_batch`) in a process of its own; tokens per second. `train`: forward and backward of GRPO's loss and the
optimiser's step over packed rows of 1,024 tokens, beside forward and backward of transformers on the same rows; the same
with `engine.compile`; and the share of the device's speed that it uses: a token costs 6 floating point operations for each
weight of a product, and attention 6 for each of its numbers, layer and token before it (PaLM, arXiv 2204.02311, appendix
B, halved for causal attention), over those of a large product of matrices that is timed on the device. `publish`: from
the end of an optimiser's step to the first token of the new weights, 32 completions in flight.

`--device cpu --tiny` runs all of it with 5.8 million parameters in float32 and few tokens: a proof that it runs, no
figure. `--record` writes benchmarks/results/gpu.json.
"""

import argparse
import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM

from benchmarks.inference_parts import write_model
from benchmarks.inference_rounds import over_http, part, row
from benchmarks.record import end_run
from core.types import Sample
from trainer.algorithms.base import AdamParams
from trainer.algorithms.grpo import GRPO
from trainer.batch import Batch, collate
from trainer.engines.torch_engine import Precision, TorchEngine, TorchEngineConfig


class Scale(NamedTuple):
    """How large everything is."""

    size: str
    number_format: str
    at_once: tuple[int, ...]
    rows: int
    length: int
    product: int
    """Rows and columns of the matrices whose product is timed."""


FULL = Scale("0.5B", "bfloat16", (1, 32, 256), 32, 1024, 8192)
TINY = Scale("6M", "float32", (1, 4), 4, 128, 512)
IN_FLIGHT = 32
ROWS_AT_ONCE = 4  # as many tokens as a micro-batch of ours by default


def decode_rows(model: Path, scale: Scale, repeats: int, device: str) -> dict[str, dict]:
    """Tokens per second of wall by how many complete at once, beside transformers' continuous batching."""
    rows: dict[str, dict] = {}
    for batch in scale.at_once:
        options = {"model": model, "batch": batch, "device": device, "dtype": scale.number_format}
        with part("serve", **options) as server:
            took = [asyncio.run(over_http(server, batch, seed)) for seed in range(repeats + 1)][1:]
        with part("continuous", **options) as peer:
            told = [peer.round() for _ in range(repeats)]
        ours, theirs = [one.tokens / one.wall for one in took], [one["tokens"] / one["wall"] for one in told]
        rows[f"decode, {batch} at once"] = row(ours, theirs, None, "tokens / s")
    return rows


def train_rows(model: Path, scale: Scale, repeats: int, device: str) -> dict[str, dict]:
    """Tokens per second of a step, beside transformers' passes and compiled, and the share of the device's speed."""
    batch, place = random_batch(scale), torch.device(device)
    tokens = int(batch.lengths.sum())
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).to(place)  # pyright: ignore
    works = [passes_of(plain, batch, scale), *(step_of(model, scale, device, compiled=on) for on in (False, True))]
    theirs, ours, compiled = speeds(works, tokens, repeats, place)
    share = max(median(ours), median(compiled)) * operations(plain, scale.length) / product_speed(scale, place)
    return {
        "train, against transformers": row(ours, theirs, None, "tokens / s"),
        "train compiled, against not": row(compiled, ours, None, "tokens / s"),
        "train, of a product's speed": row([share], None, None, "share"),
    }


def publish_rows(model: Path, scale: Scale, repeats: int, device: str) -> dict[str, dict]:
    """Seconds from the end of a step to the first token of its weights."""
    with part("publish", model=model, batch=IN_FLIGHT, device=device, dtype=scale.number_format) as publisher:
        publisher.round()
        told = [publisher.round() for _ in range(repeats)]
    if not all(one["whole"] for one in told):
        raise RuntimeError("a publication ended a completion")
    return {f"publish, {IN_FLIGHT} in flight": {**row([one["seconds"] for one in told], None, None, "s"), "better": "lower"}}


def passes_of(plain: torch.nn.Module, batch: Batch, scale: Scale) -> Callable[[], None]:
    """Forward and backward of transformers, some rows at a time."""
    ids = batch.token_ids.to(next(plain.parameters()).device)

    def passes() -> None:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=scale.number_format == "bfloat16"):
            for some in ids.split(ROWS_AT_ONCE):
                plain(input_ids=some, labels=some, use_cache=False).loss.backward()
        plain.zero_grad()

    return passes


def step_of(model: Path, scale: Scale, device: str, *, compiled: bool) -> Callable[[], None]:
    """A step of the torch engine over the same batch."""
    precision = Precision(scale.number_format)
    engine = TorchEngine(model, TorchEngineConfig(device=device, precision=precision, compile=compiled))
    batch, loss = random_batch(scale), GRPO().loss

    def step() -> None:
        engine.forward_backward(batch, loss)
        engine.optim_step(AdamParams(lr=1e-6))

    return step


def random_batch(scale: Scale) -> Batch:
    """Rows of random tokens, all but the first of each learned from; no two share their beginning."""
    chance = random.Random(0)
    return collate([random_row(number, scale.length, chance) for number in range(scale.rows)])


def random_row(number: int, length: int, chance: random.Random) -> Sample:
    ids, learned = tuple(chance.randrange(10, 1000) for _ in range(length)), (False, *(True,) * (length - 1))
    return Sample(
        group_id="g",
        trajectory_id=str(number),
        token_ids=ids,
        loss_mask=learned,
        logprobs=tuple(-8.0 * one for one in learned),
        advantages=tuple((-1.0) ** number * one for one in learned),
    )


def operations(model: torch.nn.Module, length: int) -> float:
    """Floating point operations that a token costs forward and backward, by the head's docstring; tied matrices once."""
    weights = sum(one.numel() for one in model.parameters() if one.dim() >= 2)
    config = model.config  # pyright: ignore
    return 6.0 * (weights + config.num_hidden_layers * config.num_attention_heads * config.head_dim * length)


def product_speed(scale: Scale, device: torch.device) -> float:
    """Floating point operations a second of a large product of matrices in that number format."""
    kind = getattr(torch, scale.number_format)
    left, right = (torch.randn(scale.product, scale.product, dtype=kind, device=device) for _ in range(2))
    (found,) = speeds([lambda: left @ right], 2 * scale.product**3, 10, device)
    return median(found)


def speeds(works: Sequence[Callable[[], object]], amount: float, repeats: int, device: torch.device) -> list[list[float]]:
    """Amount per second of wall of each work; they take turns, after a round that does not count."""
    found = [[speed(work, amount, device) for work in works] for _ in range(repeats + 1)]
    return [list(each) for each in zip(*found[1:], strict=True)]


def speed(work: Callable[[], object], amount: float, device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
    return amount / (time.perf_counter() - started)


ROWS = {"decode": decode_rows, "train": train_rows, "publish": publish_rows}


def measured(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, dict]]:
    scale = TINY if arguments.tiny else FULL
    model = write_model(folder, scale.size)
    for name in arguments.only or ROWS:
        for label, one in ROWS[name](model, scale, arguments.repeats, arguments.device).items():
            yield f"{label}: {scale.size} {scale.number_format} on {arguments.device}", one


def device_name(device: str) -> str:
    """What the machine calls it."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=list(ROWS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a small model and few tokens, to see that it runs")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/gpu.json")
    arguments = parser.parse_args()
    rows: dict[str, dict] = {}
    with TemporaryDirectory() as folder:
        for label, one in measured(arguments, Path(folder)):
            rows[label] = {**one, "device": device_name(arguments.device)}
            print(
                f"{label:62} {one['ours']:12.5g} {one['unit']:11} peer {one['peer'] or '-':>10}  ratio {one['ratio'] or '-':>6}"
                f"  load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    end_run("gpu", rows, arguments)


if __name__ == "__main__":
    main()
