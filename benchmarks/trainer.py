"""One GRPO step against TRL's, training tokens a second against plain transformers, and steps to a reward.

    make trl
    python -m benchmarks.trainer [--trl .venv-trl] [--repeats N] [--only ROWS] [--json] [--record]

A random Qwen3 of 5.8 million parameters; a step samples 32 completions of 128 tokens, 8 for each of 4 prompts, scores
them and learns from them. Ours is the local engine, the torch engine and the publication of the weights, in one process; TRL
generates with transformers in its own. Rounds of ours and of the peer alternate; one thread each, but for `overlapped`,
where we sample the next step's completions beside the training of this one, and TRL has two threads. All rows are CPU
seconds of the process, which a busy machine hardly moves, but for `overlapped`, which is wall time and needs two free cores.

`episodes` learns from 8 episodes of 8 turns and 512 tokens as rows that hold whole episodes, loss and optimiser included;
the peer is forward and backward of the same tokens by transformers. `a row per call` learns the same from a row for each
turn. `even tokens` trains a model of 0.1 million parameters until nine of ten tokens are even, over three seeds,
and counts steps and CPU seconds. `services` trains it for 50 steps and compares with the loop in one process, of which a step
samples and then learns: `through the queue` is the same with every group asked for, posted, taken and acknowledged at a
rollout API, in CPU seconds of both processes; `by three services` is the wall time of rollout API, trainer and environment
server as `natgym serve` starts them, sampling over HTTP while the trainer learns, and needs two free cores. `--record` writes
benchmarks/results/trainer.json.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory

import torch
from transformers import AutoModelForCausalLM

from benchmarks.record import end_run
from benchmarks.trainer_parts import Asked, Ours, Step, Trl, group, rollout, turn, write_model
from benchmarks.trainer_services import by_three_services, directly, through_the_queue
from core.types import ScoredGroup, Trajectory, Turn
from trainer.algorithms.grpo import GRPO, GRPOConfig
from trainer.engines.torch_engine import Layout, TorchEngine, TorchEngineConfig
from trainer.learner import Learner
from trainer.samples import Admission

SHORT, LONG = 64, 1100
TURNS, EPISODES, EPISODE_TOKENS = 8, 8, 512
REWARD, MOST_STEPS, SEEDS = 0.9, 100, (0, 1, 2)
BENCH = {"vocab_size": 4096, "hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "head_dim": 32}
TOY = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16}


def alternating(ours: Callable[[], Step], peer: Callable[[], Step], repeats: int) -> tuple[list[Step], list[Step]]:
    """Steps of both in turn; the first of each is not counted."""
    found = [(ours(), peer()) for _ in range(repeats + 1)][1:]
    return [one for one, _ in found], [one for _, one in found]


def steps_against_trl(trl: Path, model: Path, prompt: int, repeats: int) -> dict[str, dict]:
    """A step in each number format against TRL's."""
    asked = Asked(str(model), BENCH["vocab_size"], prompt, out=str(model / "trl"))
    rows: dict[str, dict] = {}
    with Trl(trl, asked) as peer, Ours(asked) as exact, Ours(asked, "bfloat16") as rough:
        found = [(exact.step(), rough.step(), peer.step()) for _ in range(repeats + 1)][1:]
    theirs = median(one.cpu for _, _, one in found)
    for place, (name, bar) in enumerate([("float32", 0.95 if prompt == SHORT else 0.25), ("bfloat16", 0.70)]):
        if name == "float32" or prompt == SHORT:
            rows[f"step, prompts of {prompt}, {name}"] = row(median(one[place].cpu for one in found), theirs, bar, "s CPU")
    return rows


def overlapped(trl: Path, model: Path, repeats: int) -> dict[str, dict]:
    """Sampling beside training on two cores against TRL with two threads, in wall time."""
    asked = Asked(str(model), BENCH["vocab_size"], SHORT, out=str(model / "trl"))
    with Trl(trl, asked._replace(threads=2)) as peer, Ours(asked) as ours:
        mine, theirs = alternating(ours.overlapped, peer.step, repeats)
    return {"step, overlapped": row(median(one.wall for one in mine), median(one.wall for one in theirs), 0.75, "s wall")}


def until_reward(step: Callable[[], Step]) -> tuple[int, float]:
    """Steps and CPU seconds until the mean reward of a batch is there."""
    spent = 0.0
    for number in range(1, MOST_STEPS + 1):
        one = step()
        spent += one.cpu
        if one.reward >= REWARD:
            return number, spent
    return MOST_STEPS, spent


def even_tokens(trl: Path, folder: Path) -> dict[str, dict]:
    """Steps and CPU seconds until nine of ten sampled tokens are even, three seeds."""
    ours, theirs = [], []
    for seed in SEEDS:
        model = write_model(folder / f"toy-{seed}", TOY, seed)
        asked = Asked(str(model), TOY["vocab_size"], 4, length=16, lr=3e-3, seed=seed, out=str(model / "trl"))
        with Trl(trl, asked) as peer, Ours(asked) as mine:
            ours.append(until_reward(mine.step))
            theirs.append(until_reward(peer.step))
        print(
            f"  seed {seed}: ours {ours[-1][0]} steps, {ours[-1][1]:.2f} s; TRL {theirs[-1][0]} steps, {theirs[-1][1]:.2f} s",
            flush=True,
        )
    return {
        "even tokens, steps": row(fmean(one for one, _ in ours), fmean(one for one, _ in theirs), 1.1, "steps"),
        "even tokens, time": row(fmean(one for _, one in ours), fmean(one for _, one in theirs), 0.8, "s CPU"),
    }


def services(folder: Path) -> dict[str, dict]:
    """What the queue, and all three services, add to the same toy task in one process; three seeds."""
    alone, queued, served = [], [], []
    for seed in SEEDS:
        model = write_model(folder / f"served-{seed}", TOY, seed)
        asked = Asked(str(model), TOY["vocab_size"], 4, length=16, lr=3e-3, seed=seed)
        for ways, way in ((alone, directly), (queued, through_the_queue), (served, by_three_services)):
            ways.append(way(asked, folder / f"{way.__name__}-{seed}", REWARD))
            print(f"  seed {seed}, {way.__name__}: {ways[-1]}", flush=True)
    cpu = [fmean(sum(one.cpu.values()) for one in ways) for ways in (alone, queued)]
    wall = [fmean(one.wall for one in ways) for ways in (alone, served)]
    return {
        "even tokens, through the queue": row(cpu[1], cpu[0], 1.25, "s CPU a step"),
        "even tokens, by three services": row(wall[1], wall[0], 1.25, "s wall a step"),
    }


def episodes(model: Path, repeats: int) -> dict[str, dict]:
    """Training tokens a CPU second on episodes, against transformers and against a row for each call."""
    torch.set_num_threads(1)
    chance = random.Random(0)
    ids = [[chance.randrange(BENCH["vocab_size"]) for _ in range(EPISODE_TOKENS)] for _ in range(EPISODES)]
    merged = [group("merged", [episode(row, number) for number, row in enumerate(ids)])]
    apart = [group("apart", [one for number, row in enumerate(ids) for one in calls(row, number)])]
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokens = torch.tensor(ids)

    def transformers() -> Step:
        return timed(lambda: plain(input_ids=tokens, labels=tokens, use_cache=False).loss.backward())

    def learning(groups: list[ScoredGroup], layout: Layout) -> Callable[[], Step]:
        engine = TorchEngine(model, TorchEngineConfig(layout=layout))
        learner = Learner(engine, GRPO(GRPOConfig(lr=1e-5)))
        return lambda: timed(lambda: learner.learn(groups, Admission(), 0))

    whole, single = learning(merged, Layout.SHARED), learning(apart, Layout.PACKED)
    found = [(whole(), single(), transformers()) for _ in range(repeats + 1)][1:]
    ours, per_call, theirs = (EPISODES * EPISODE_TOKENS / median(one[place].cpu for one in found) for place in range(3))
    return {
        "episodes, against transformers": row(ours, theirs, 1.0, "tokens/s CPU", better="higher"),
        "episodes, against a row per call": row(ours, per_call, 2.0, "tokens/s CPU", better="higher"),
    }


def episode(ids: Sequence[int], number: int) -> Trajectory:
    """Eight turns: half of each turn's tokens were observed, half sampled."""
    return rollout(f"episode-{number}", turns_of(ids), float(number))


def calls(ids: Sequence[int], number: int) -> list[Trajectory]:
    """The same turns as rollouts of their own, with the reward of their episode."""
    return [rollout(f"call-{number}-{place}", [one], float(number)) for place, one in enumerate(turns_of(ids))]


def turns_of(ids: Sequence[int]) -> list[Turn]:
    """Each prompt is the turn before it and an observation as long as the completion."""
    width = len(ids) // TURNS
    logprobs = [-8.3] * (width - width // 2)  # of a random model, about log 4096
    return [
        turn(ids[: end - len(logprobs)], ids[end - len(logprobs) : end], logprobs) for end in range(width, len(ids) + 1, width)
    ]


def timed(work: Callable[[], object]) -> Step:
    """What some work took."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Step(time.process_time() - cpu, time.perf_counter() - wall, 0.0)


def row(ours: float, peer: float, bar: float, unit: str, better: str = "lower") -> dict[str, float | str]:
    """One line of the table; the bar is one of the ratio."""
    return {
        "ours": round(ours, 3),
        "peer": round(peer, 3),
        "ratio": round(ours / peer, 3),
        "bar": bar,
        "better": better,
        "unit": unit,
    }


def main() -> None:
    arguments = parse()
    rows: dict[str, dict] = {}
    with TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "bench", BENCH)
        parts: dict[str, Callable[[], dict[str, dict]]] = {
            "short": lambda: steps_against_trl(arguments.trl, model, SHORT, arguments.repeats),
            "long": lambda: steps_against_trl(arguments.trl, model, LONG, max(1, arguments.repeats // 3)),
            "overlapped": lambda: overlapped(arguments.trl, model, arguments.repeats),
            "episodes": lambda: episodes(model, arguments.repeats),
            "even": lambda: even_tokens(arguments.trl, Path(folder)),
            "services": lambda: services(Path(folder)),
        }
        for name in arguments.only or parts:
            for label, one in parts[name]().items():
                rows[label] = {**one, "load_average": round(os.getloadavg()[0], 2)}
                print(
                    f"{label:36} {one['ours']:9.3f} {one['unit']:13} peer {one['peer']:9.3f}  ratio {one['ratio']:6.3f}  "
                    f"bar {one['bar']:5.2f} ({one['better']})  load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
    end_run("trainer", rows, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", type=Path, default=Path(".venv-trl"), help="folder of TRL's environment")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=["short", "long", "overlapped", "episodes", "even", "services"])
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/trainer.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
