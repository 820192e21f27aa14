"""The processes of the benchmark of inference: an endpoint, transformers' `generate`, and who keeps the cores busy.

    python -m benchmarks.inference_parts serve|generate|busy ...

Each prints one line of JSON when it is ready and one for each line that it reads; it ends with its standard input.
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

PROMPT_TOKENS, NEW_TOKENS, VOCABULARY = 64, 128, 4096
SHAPES = {
    "6M": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 8, "head_dim": 32},
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "head_dim": 64},
}
KV_HEADS = {"6M": 4, "0.5B": 2}


def write_model(directory: Path, size: str) -> Path:
    """A random Qwen3 of that size, with the tokenizer and template of the policy that comes with natgym."""
    import shutil

    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from services.policy_folder import SHIPPED_POLICY

    torch.manual_seed(0)
    vocabulary = VOCABULARY if size == "6M" else 151936
    config = Qwen3Config(
        **SHAPES[size], num_key_value_heads=KV_HEADS[size], vocab_size=vocabulary, max_position_embeddings=4096,
        tie_word_embeddings=True,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(SHIPPED_POLICY / name, directory / name)
    return directory


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    """Prompts of random tokens; no two share their beginning."""
    import random

    chance = random.Random(seed)
    return [[chance.randrange(10, 1000) for _ in range(PROMPT_TOKENS)] for _ in range(count)]


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


async def serve(arguments: argparse.Namespace) -> None:
    """Our endpoint."""
    from services.trainer_server.serving import served_model
    from trainer.inference import local_engine
    from trainer.weights import WeightFormat

    if arguments.force_threads:  # what happens without the trial at the start
        import torch

        local_engine.probed_threads = torch.set_num_threads
    config = local_engine.LocalEngineConfig(
        max_batch=arguments.batch, threads=arguments.threads, device=arguments.device, dtype=WeightFormat(arguments.dtype)
    )
    async with served_model(arguments.model, config=config) as url:
        say(url=url)
        while await asyncio.to_thread(sys.stdin.readline):
            pass


def generate(arguments: argparse.Namespace) -> None:
    """transformers' `generate` in this process: one batch for each line."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(arguments.threads)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype))
    model = model.to(arguments.device).eval()  # pyright: ignore
    ids = torch.tensor(prompts(arguments.batch), device=arguments.device)
    settings = {"do_sample": True, "top_k": 0, "top_p": 1.0, "min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}

    def batch() -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            made = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **settings)  # pyright: ignore
        assert made.shape[1] == PROMPT_TOKENS + NEW_TOKENS
        return time.perf_counter() - wall, time.process_time() - cpu

    batch()
    say(ready=True)
    for _ in sys.stdin:
        wall, cpu = batch()
        say(wall=wall, cpu=cpu, tokens=arguments.batch * NEW_TOKENS)


def continuous(arguments: argparse.Namespace) -> None:
    """transformers' continuous batching in this process: one batch for each line."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype))
    model = model.to(arguments.device).eval()  # pyright: ignore
    config = GenerationConfig(do_sample=True, max_new_tokens=NEW_TOKENS, eos_token_id=-1, pad_token_id=0)

    def batch() -> float:
        wall = time.perf_counter()
        made = model.generate_batch(inputs=prompts(arguments.batch), generation_config=config)
        tokens = sum(len(one.generated_tokens) for one in made.values())
        assert tokens == arguments.batch * NEW_TOKENS
        return time.perf_counter() - wall

    batch()
    say(ready=True)
    for _ in sys.stdin:
        say(wall=batch(), cpu=None, tokens=arguments.batch * NEW_TOKENS)


def publish(arguments: argparse.Namespace) -> None:
    """One publication for each line, while completions are decoded."""
    import torch

    torch.set_num_threads(1)
    asyncio.run(_publish(arguments))


async def _publish(arguments: argparse.Namespace) -> None:
    from trainer.engines.torch_engine import TorchEngine, TorchEngineConfig
    from trainer.inference.base import GenerationRequest, SamplingParams
    from trainer.inference.local_engine import LocalEngine, LocalEngineConfig

    learner = TorchEngine(arguments.model, TorchEngineConfig())
    engine = LocalEngine.load(arguments.model, LocalEngineConfig(max_batch=arguments.batch))
    say(ready=True)
    version = 0
    while await asyncio.to_thread(sys.stdin.readline):
        params = SamplingParams(max_tokens=NEW_TOKENS)
        version += 1
        first, decoding, counts = asyncio.Event(), asyncio.Event(), [0] * arguments.batch

        async def follow(
            index: int, prompt: list[int], first: asyncio.Event = first, decoding: asyncio.Event = decoding,
            counts: list[int] = counts, version: int = version, params: SamplingParams = params,
        ) -> None:  # fmt: skip
            async for chunk in engine.stream(GenerationRequest(prompt_ids=tuple(prompt), params=params)):
                counts[index] += len(chunk.token_ids)
                if chunk.policy_version == version:
                    first.set()
                if min(counts) >= NEW_TOKENS // 4:
                    decoding.set()

        tasks = [asyncio.create_task(follow(index, one)) for index, one in enumerate(prompts(arguments.batch, version))]
        await decoding.wait()
        before = engine.stats()
        started = time.perf_counter()
        weights = await asyncio.to_thread(learner.state_dict)
        sent = asyncio.create_task(engine.publish(weights, version))
        await first.wait()
        seconds = time.perf_counter() - started
        await asyncio.gather(sent, *tasks)
        steps = engine.stats()
        step = (steps.seconds["decode"] - before.seconds["decode"]) / (steps.decode_steps - before.decode_steps)
        say(seconds=seconds, step_seconds=step, whole=counts == [NEW_TOKENS] * arguments.batch)
    await engine.aclose()


def busy(_: argparse.Namespace) -> None:
    """A core that somebody else uses."""
    say(ready=True)
    while True:
        sum(range(10_000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["serve", "generate", "continuous", "publish", "busy"])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--force-threads", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    if arguments.part == "serve":
        asyncio.run(serve(arguments))
        return
    {"generate": generate, "continuous": continuous, "publish": publish, "busy": busy}[arguments.part](arguments)


if __name__ == "__main__":
    main()
