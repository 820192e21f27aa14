"""Models of other architectures than our own forward pass knows: the same guarantees."""

import asyncio
from copy import deepcopy
from pathlib import Path
from shutil import copyfile

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MambaConfig, PreTrainedModel, Qwen2Config, Qwen3Config
from transformers import Gemma2Config as Gemma2
from transformers import GptOssConfig as GptOss

from core.errors import ConfigError, TrainingError
from core.types import FinishReason
from tests.trainer.inference.tiny import some_tokens
from trainer.inference.base import GenerationRequest, SamplingParams, VersionSpan
from trainer.inference.decoder import Decoder
from trainer.inference.feed import Feed
from trainer.inference.loading import exact_decoder, load_decoder
from trainer.inference.local_engine import LocalEngine, LocalEngineConfig
from trainer.inference.packed_decoder import PackedDecoder
from trainer.inference.qwen3 import Qwen3
from trainer.inference.replay import ReplayingDecoder
from trainer.inference.row_decoder import RowDecoder
from trainer.weights import WeightFormat

EXACT = 1e-5  # float32 sums in another order, over a few hundred terms
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
COMMON = {**SIZES, "vocab_size": 411, "max_position_embeddings": 512, "initializer_range": 0.3}
CONFIGS = {
    "llama": LlamaConfig(**COMMON),
    "qwen2": Qwen2Config(**COMMON),
    "gemma2": Gemma2(**COMMON, head_dim=8, sliding_window=16, query_pre_attn_scalar=8),
    "gpt_oss": GptOss(**COMMON, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=16),
    "gpt2": GPT2Config(vocab_size=411, n_embd=32, n_layer=2, n_head=4, n_positions=512, initializer_range=0.3),
    "mamba": MambaConfig(vocab_size=411, hidden_size=32, num_hidden_layers=2, state_size=8, initializer_range=0.3),
}
ROW_BY_ROW = ("gpt_oss", "mamba")


def made(name: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(deepcopy(CONFIGS[name])).eval()


def expected(model: PreTrainedModel, prompt: tuple[int, ...], completion: tuple[int, ...]) -> list[float]:
    """Logprobs of a completion by a plain forward of the whole text."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *completion]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor([completion]).T).squeeze(1).tolist()


def ask(prompt: tuple[int, ...], session: str | None = None, count: int = 12) -> GenerationRequest:
    return GenerationRequest(prompt_ids=prompt, params=SamplingParams(max_tokens=count), session_id=session)


def engine_of(decoder: Decoder) -> LocalEngine:
    return LocalEngine(decoder, LocalEngineConfig(max_batch=4, prefill_tokens=32))


@pytest.mark.parametrize("name", CONFIGS)
async def test_turns_and_groups_are_exact(name: str):
    decoder = exact_decoder(made(name))
    engine, oracle = engine_of(decoder), made(name)
    prompts = {f"episode-{index}": some_tokens(17 + 20 * (index // 2), seed=index // 2) for index in range(6)}
    cached = 0
    for turn in range(2):
        tasks = [engine.generate(ask(prompt, session)) for session, prompt in prompts.items()]
        for (session, prompt), one in zip(list(prompts.items()), await asyncio.gather(*tasks), strict=True):
            assert list(one.logprobs) == pytest.approx(expected(oracle, prompt, one.token_ids), abs=EXACT)
            prompts[session] = (*prompt, *one.token_ids, *some_tokens(5, seed=turn))
            cached += one.cached_tokens
    await engine.aclose()
    assert isinstance(decoder, RowDecoder if name in ROW_BY_ROW else PackedDecoder)
    assert cached > 0


@pytest.mark.parametrize("name", ["llama", "mamba"])
async def test_weights_are_swapped_and_nothing_is_dropped(name: str):
    engine, other = engine_of(exact_decoder(made(name))), made(name, seed=1)
    chunks = engine.stream(ask(some_tokens(20), count=60))
    first = await anext(chunks)
    await engine.publish(other.state_dict(), 1)
    left = [chunk async for chunk in chunks]
    fresh = await engine.generate(ask(some_tokens(20)))
    await engine.aclose()
    assert (left[-1].policy_version, left[-1].finish_reason) == (1, FinishReason.LENGTH)
    assert sum(len(chunk.token_ids) for chunk in (first, *left)) == 60
    assert fresh.spans == (VersionSpan(1, 0, 12),)
    assert list(fresh.logprobs) == pytest.approx(expected(other, some_tokens(20), fresh.token_ids), abs=EXACT)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
async def test_a_cancelled_request_frees_its_place(name: str):
    engine = engine_of(exact_decoder(made(name)))
    tasks = [asyncio.create_task(engine.generate(ask(some_tokens(20), count=450))) for _ in range(6)]
    await asyncio.sleep(0)  # every task has asked
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len((await engine.generate(ask(some_tokens(9)))).token_ids) == 12
    stats = engine.stats()
    await engine.aclose()
    assert (stats.running, stats.waiting, stats.cancelled) == (0, 0, 6)


async def test_a_directory_of_another_architecture_is_served(tmp_path: Path, model_dir: Path):
    made("llama").save_pretrained(tmp_path)
    for path in model_dir.glob("tokenizer*"):
        copyfile(path, tmp_path / path.name)
    engine = LocalEngine.load(tmp_path, LocalEngineConfig(max_batch=2))
    one = await engine.generate(ask(some_tokens(30)))
    await engine.aclose()
    assert list(one.logprobs) == pytest.approx(expected(made("llama"), some_tokens(30), one.token_ids), abs=EXACT)


async def test_weights_of_another_shape_are_refused_by_name():
    engine, weights = engine_of(exact_decoder(made("llama"))), made("llama").state_dict()
    with pytest.raises(TrainingError, match=r"model\.norm\.weight: expected shape \(32,\), found \(7,\)"):
        await engine.publish({**weights, "model.norm.weight": torch.zeros(7)}, 1)
    with pytest.raises(TrainingError, match=r"unknown .*lora_A"):
        await engine.publish({**weights, "lora_A": torch.zeros(7)}, 1)
    await engine.aclose()


def test_a_model_that_no_way_decodes_exactly_is_refused():
    model = made("gpt2")
    model.transformer.wpe.register_forward_hook(lambda _module, _inputs, output: output + torch.rand_like(output))
    with pytest.raises(ConfigError, match=r"GPT2LMHeadModel cannot be decoded exactly: packed: logprobs are off by .*; rows: "):
        exact_decoder(model)


def test_a_device_that_is_not_here_is_refused(model_dir: Path):
    with pytest.raises(ConfigError, match=r"inference\.device 'cudda' cannot be used"):
        load_decoder(model_dir, "cudda")


def test_weights_in_several_files_are_read(tmp_path: Path):
    config = Qwen3Config(**COMMON, head_dim=8, tie_word_embeddings=False)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    prompt = some_tokens(20)
    decoder = Qwen3.load(tmp_path)
    logits = decoder.forward(Feed.runs([list(prompt)], [0], 0, "cpu"), decoder.slab(1, len(prompt)))
    with torch.inference_mode():
        torch.testing.assert_close(logits[0], model(torch.tensor([prompt])).logits[0, -1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["qwen3", "llama"])
async def test_bfloat16_stays_near_float32(name: str, model_dir: Path, tmp_path: Path):
    if name != "qwen3":
        made(name).save_pretrained(tmp_path)
    directory = model_dir if name == "qwen3" else tmp_path
    engine = LocalEngine.load(directory, LocalEngineConfig(max_batch=2, dtype=WeightFormat.BFLOAT16))
    one = await engine.generate(ask(some_tokens(40), count=40))
    await engine.aclose()
    exact = expected(AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32), some_tokens(40), one.token_ids)
    distances = [abs(told - should) for told, should in zip(one.logprobs, exact, strict=True)]
    assert 0 < sum(distances) / len(distances) < 0.1  # 8 bits of precision a product, logits of a few nats


@pytest.mark.parametrize("name", ["qwen3", "llama"])
async def test_recorded_steps_of_wider_shapes_are_exact(name: str, model_dir: Path):
    """What a GPU replays, here run anew each time: shapes, free rows and reuse of the places are the same."""
    decoder = Qwen3.load(model_dir) if name == "qwen3" else exact_decoder(made(name))
    assert isinstance(decoder, Qwen3 | PackedDecoder)
    recorded: list[object] = []
    engine = engine_of(ReplayingDecoder(decoder, lambda step: (recorded.append(step), step)[1]))
    oracle = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32) if name == "qwen3" else made(name)
    prompts = [some_tokens(count, seed=count) for count in (3, 250, 40, 90, 17, 8)]
    answers = await asyncio.gather(*(engine.generate(ask(prompt, count=10 + index)) for index, prompt in enumerate(prompts)))
    await engine.aclose()
    for prompt, one in zip(prompts, answers, strict=True):
        assert list(one.logprobs) == pytest.approx(expected(oracle, prompt, one.token_ids), abs=EXACT)
    assert 0 < len(recorded) <= 2 * 3  # lengths to 256 and to 512, of 1, 2 and 4 rows
