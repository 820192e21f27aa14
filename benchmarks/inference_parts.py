"""The processes of the benchmark of inference: an endpoint, transformers' `generate`, who
publishes weights, who asks a Tinker server, and who keeps the cores busy.

    python -m benchmarks.inference_parts serve|generate|publish|skyrl|busy ...

Each prints one line of JSON when it is ready and one for each line that it reads; it ends with its standard input.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from pathlib import Path

PROMPT_TOKENS, NEW_TOKENS, VOCABULARY = 64, 128, 4096
SHAPES = {
    "6M": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 8, "head_dim": 32},
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "head_dim": 64},
}
KV_HEADS = {"6M": 4, "0.5B": 2}
STEP_SECONDS = 0.016
"""Of a decode step of 32 completions, about."""
LORA_RANK = 8


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
    from trainer.weights import WeightFormat

    device, number_format = arguments.device, WeightFormat(arguments.dtype)
    learner = TorchEngine(arguments.model, TorchEngineConfig(device=device))
    config = LocalEngineConfig(max_batch=arguments.batch, device=device, dtype=number_format)
    engine = LocalEngine.load(arguments.model, config)
    say(ready=True)
    chance, version = random.Random(0), 0
    while await asyncio.to_thread(sys.stdin.readline):
        params = SamplingParams(max_tokens=NEW_TOKENS)
        version += 1
        decoding, all_new = asyncio.Event(), asyncio.Event()
        counts, new_at = [0] * arguments.batch, dict[int, float]()

        async def follow(
            index: int, prompt: list[int], decoding: asyncio.Event = decoding, all_new: asyncio.Event = all_new,
            counts: list[int] = counts, new_at: dict[int, float] = new_at, version: int = version,
            params: SamplingParams = params,
        ) -> None:  # fmt: skip
            async for chunk in engine.stream(GenerationRequest(prompt_ids=tuple(prompt), params=params)):
                counts[index] += len(chunk.token_ids)
                if chunk.policy_version == version:
                    new_at.setdefault(index, time.perf_counter())
                    if len(new_at) == arguments.batch:
                        all_new.set()
                if min(counts) >= NEW_TOKENS // 4:
                    decoding.set()

        tasks = [asyncio.create_task(follow(index, one)) for index, one in enumerate(prompts(arguments.batch, version))]
        await decoding.wait()
        before = engine.stats()
        await asyncio.sleep(chance.random() * STEP_SECONDS)  # an optimiser ends at any moment of a step
        started = time.perf_counter()
        await engine.publish_from(learner, version)
        await all_new.wait()
        await asyncio.gather(*tasks)
        after = engine.stats()
        step = (after.seconds["decode"] - before.seconds["decode"]) / (after.decode_steps - before.decode_steps)
        say(
            seconds=min(new_at.values()) - started, last_seconds=max(new_at.values()) - started, step_seconds=step,
            whole=counts == [NEW_TOKENS] * arguments.batch,
        )  # fmt: skip
    await engine.aclose()


def skyrl(arguments: argparse.Namespace) -> None:
    """Who asks a Tinker server, through its SDK: `rollout` or `publish` for each line.

    A rollout is one request of so many completions: many requests become several batches there, each of another size
    and compiled anew.
    """
    import numpy as np
    import tinker

    client = tinker.ServiceClient(base_url=arguments.url, api_key="tml-benchmark")
    model = client.create_lora_training_client(str(arguments.model), rank=LORA_RANK, seed=0).result()
    ids = prompts(1)[0]
    prompt, targets = tinker.ModelInput.from_ints(ids), np.asarray(ids[1:], dtype=np.int64)
    fields = {"target_tokens": targets, "weights": np.ones(len(targets), dtype=np.float32)}
    datum = tinker.Datum(
        model_input=tinker.ModelInput.from_ints(ids[:-1]),
        loss_fn_inputs={name: tinker.TensorData.from_numpy(value) for name, value in fields.items()},
    )

    def publish() -> tuple[tinker.SamplingClient, float]:
        model.forward_backward([datum], "cross_entropy").result()
        model.optim_step(tinker.AdamParams(learning_rate=1e-4)).result()
        started = time.perf_counter()
        sampler = model.save_weights_and_get_sampling_client().result()
        sampler.sample(prompt, 1, tinker.SamplingParams(max_tokens=1, temperature=1.0, stop=[])).result()
        return sampler, time.perf_counter() - started

    def rollout(sampler: tinker.SamplingClient) -> int:
        params = tinker.SamplingParams(max_tokens=NEW_TOKENS, temperature=1.0, stop=[])
        made = sampler.sample(prompt, arguments.batch, params).result().sequences
        assert all(len(one.logprobs or ()) == NEW_TOKENS for one in made)
        return sum(len(one.tokens) for one in made)

    sampler = publish()[0]
    for _ in range(2):  # what is compiled, is compiled here
        rollout(sampler)
        sampler = publish()[0]
    say(ready=True)
    for line in sys.stdin:
        started = time.perf_counter()
        if line.strip() == "publish":
            sampler, seconds = publish()
            say(seconds=seconds)
        else:
            tokens = rollout(sampler)
            say(wall=time.perf_counter() - started, tokens=tokens)


def busy(_: argparse.Namespace) -> None:
    """A core that somebody else uses."""
    say(ready=True)
    while True:
        sum(range(10_000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["serve", "generate", "continuous", "publish", "skyrl", "busy"])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--url")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--force-threads", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    if arguments.part == "serve":
        asyncio.run(serve(arguments))
        return
    {"generate": generate, "continuous": continuous, "publish": publish, "skyrl": skyrl, "busy": busy}[arguments.part](
        arguments
    )


if __name__ == "__main__":
    main()
