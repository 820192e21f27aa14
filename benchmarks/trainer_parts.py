"""What benchmarks.trainer compares: a GRPO step of natgym's parts in this process, and one of TRL in a process of its own."""

import asyncio
import json
import os
import random
import subprocess
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, Self

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from core.types import Message, Reward, Role, ScoredGroup, StopReason, Task, Trajectory, Turn
from trainer.algorithms.grpo import GRPO, GRPOConfig
from trainer.engines.torch_engine import Precision, TorchEngine, TorchEngineConfig
from trainer.inference.base import GenerationRequest, SamplingParams
from trainer.inference.local_engine import LocalEngine, LocalEngineConfig
from trainer.learner import Learner
from trainer.samples import Admission
from trainer.weights import WeightFormat

GROUPS, SIZE, LENGTH = 4, 8, 128


class Asked(NamedTuple):
    """What a step is made of, for ours and for TRL."""

    model: str
    vocabulary: int
    prompt: int
    length: int = LENGTH
    lr: float = 1e-5
    seed: int = 0
    threads: int = 1
    groups: int = GROUPS
    size: int = SIZE
    out: str = ""


class Step(NamedTuple):
    """What one took."""

    cpu: float
    wall: float
    reward: float


class Trl:
    """A process of TRL that makes a step when told."""

    def __init__(self, environment: Path, asked: Asked) -> None:
        command = [environment / "bin/python", Path(__file__).with_name("trl_peer.py"), json.dumps(asked._asdict())]
        quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(asked.threads)}
        quiet["TMPDIR"] = asked.model  # TRL imports W&B where it is, which leaves folders in a process that is ended
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=quiet
        )
        self.versions = self._line()

    def step(self) -> Step:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Step(**self._line())

    def _line(self) -> dict:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"TRL ended with {self._process.wait()}; see the head of benchmarks/trainer.py for its environment")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


class Player:
    """Samples groups in this process and scores them by their share of even tokens."""

    def __init__(self, asked: Asked, engine: LocalEngine) -> None:
        self._asked, self._engine, self._prompts = asked, engine, prompts_of(asked)

    async def play(self, step: int) -> list[ScoredGroup]:
        """The groups of one step."""
        start = step * self._asked.groups % len(self._prompts)
        prompts = self._prompts[start : start + self._asked.groups]
        params = SamplingParams(max_tokens=self._asked.length)
        requests = [GenerationRequest(prompt_ids=prompt, params=params) for prompt in prompts for _ in range(self._asked.size)]
        answers = await asyncio.gather(*(self._engine.generate(request) for request in requests))
        rollouts = [
            scored(f"{step}-{index}", turn(request.prompt_ids, one.token_ids, one.logprobs, one.policy_version))
            for index, (request, one) in enumerate(zip(requests, answers, strict=True))
        ]
        return [
            group(f"{step}-{place}", rollouts[place : place + self._asked.size])
            for place in range(0, len(rollouts), self._asked.size)
        ]


class Ours:
    """The same with natgym's parts."""

    def __init__(self, asked: Asked, number_format: str = "float32") -> None:
        config = LocalEngineConfig(threads=1, dtype=WeightFormat(number_format), seed=asked.seed)
        self._sampler = LocalEngine.load(Path(asked.model), config)
        self._player = Player(asked, self._sampler)
        engine = TorchEngine(Path(asked.model), TorchEngineConfig(precision=Precision(number_format)))
        self._learner = Learner(engine, GRPO(GRPOConfig(lr=asked.lr)), seed=asked.seed)
        self._steps, self._loop = 0, asyncio.new_event_loop()
        self._ahead: list[ScoredGroup] = []

    def step(self) -> Step:
        """Sample, learn, publish; one after the other."""
        return self._timed(self._in_turn())

    def overlapped(self) -> Step:
        """Learn and publish, and sample the next step's completions meanwhile."""
        return self._timed(self._side_by_side())

    def _timed(self, step: Coroutine[None, None, float]) -> Step:
        cpu, wall = time.process_time(), time.perf_counter()
        reward = self._loop.run_until_complete(step)
        return Step(time.process_time() - cpu, time.perf_counter() - wall, reward)

    async def _in_turn(self) -> float:
        groups = await self._player.play(self._steps)
        await self._learn(groups)
        return fmean(reward for group in groups for reward in group.rewards)

    async def _side_by_side(self) -> float:
        groups = self._ahead or await self._player.play(self._steps)
        self._ahead, _ = await asyncio.gather(self._player.play(self._steps), self._learn(groups))
        return fmean(reward for group in groups for reward in group.rewards)

    async def _learn(self, groups: Sequence[ScoredGroup]) -> None:
        await asyncio.to_thread(self._learner.learn, groups, Admission(), self._steps)
        self._steps += 1
        await self._sampler.publish(self._learner.engine.state_dict(), self._steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._sampler.aclose())
        self._loop.close()


def prompts_of(asked: Asked) -> list[tuple[int, ...]]:
    """64 prompts by chance."""
    chance = random.Random(asked.seed)
    return [tuple(chance.randrange(asked.vocabulary) for _ in range(asked.prompt)) for _ in range(64)]


def turn(prompt: Sequence[int], completion: Sequence[int], logprobs: Sequence[float], version: int = 0) -> Turn:
    """One completion as the sampler returned it."""
    return Turn(
        prompt_ids=tuple(prompt),
        completion_ids=tuple(completion),
        logprobs=tuple(logprobs),
        message=Message(role=Role.ASSISTANT),
        policy_version=version,
    )


def scored(name: str, said: Turn, task: str = "t") -> Trajectory:
    """A rollout of one turn; its reward is the share of even tokens."""
    return rollout(name, [said], fmean(token % 2 == 0 for token in said.completion_ids), task)


def rollout(name: str, turns: Sequence[Turn], reward: float, task: str = "t") -> Trajectory:
    """The turns of an episode with its reward."""
    return Trajectory(id=name, task_id=task, turns=tuple(turns), stop=StopReason.FINISHED, reward=Reward.of({}, even=reward))


def group(name: str, rollouts: Sequence[Trajectory]) -> ScoredGroup:
    """The rollouts of one prompt."""
    task = Task(id="t", environment="even", messages=())
    return ScoredGroup(id=name, environment="even", task=task, trajectories=tuple(rollouts))


def write_model(directory: Path, shape: dict[str, int], seed: int = 0) -> Path:
    """A random Qwen3 and a tokenizer of one word a token, as a Hugging Face directory."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        **shape,
        num_key_value_heads=shape["num_attention_heads"] // 2,
        intermediate_size=3 * shape["hidden_size"],
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=None,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(directory)
    words = Tokenizer(models.WordLevel({f"t{number}": number for number in range(shape["vocab_size"])}, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    last = f"t{shape['vocab_size'] - 1}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=last, pad_token=last)
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(directory)
    return directory
