"""A model of a few thousand parameters, groups made by hand, and a sampler of its own for the loop."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from core.types import Failure, Message, Reward, Role, Sample, ScoredGroup, StopReason, Task, Trajectory, Turn, Update
from trainer.loop import TakenBatch

VOCABULARY = 24


def write_toy_model(directory: Path, seed: int = 0, **changes: object) -> Path:
    """A Qwen3 with random weights, as a Hugging Face directory."""
    torch.manual_seed(seed)
    shape: dict[str, object] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "intermediate_size": 32,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,
    }
    Qwen3ForCausalLM(Qwen3Config(**(shape | changes))).save_pretrained(directory)
    return directory


def turn(prompt: Sequence[int], completion: Sequence[int], version: int = 0, logprob: float = -1.0) -> Turn:
    return Turn(
        prompt_ids=tuple(prompt),
        completion_ids=tuple(completion),
        logprobs=tuple(logprob for _ in completion),
        message=Message(role=Role.ASSISTANT),
        policy_version=version,
    )


def scored(name: str, reward: float, turns: Sequence[Turn], stop: StopReason = StopReason.FINISHED) -> Trajectory:
    metrics = {"success_rate": float(reward >= 1.0)}
    return Trajectory(id=name, task_id="t", turns=tuple(turns), stop=stop, reward=Reward.of(metrics, right=reward))


def lost(name: str, turns: Sequence[Turn] = ()) -> Trajectory:
    failure = Failure(boundary="sandbox", error="SandboxLost", message="gone")
    return Trajectory(id=name, task_id="t", turns=tuple(turns), stop=StopReason.FAILED, failure=failure)


def group(name: str, trajectories: Sequence[Trajectory]) -> ScoredGroup:
    return ScoredGroup(
        id=name, environment="toy", task=Task(id="t", environment="toy", messages=()), trajectories=tuple(trajectories)
    )


def pair(name: str, version: int = 0) -> ScoredGroup:
    """Two rollouts of one turn: one right, one wrong."""
    return group(name, [scored("a", 1.0, [turn([1, 2], [3, 4], version)]), scored("b", 0.0, [turn([1, 2], [5], version)])])


def random_sample(number: int, length: int, advantage: float) -> Sample:
    """Two prompt tokens, then completions with a gap in the middle where a tool spoke."""
    generator = torch.Generator().manual_seed(number)
    mask = tuple(position >= 2 and position % 5 != 4 for position in range(length))
    logprobs = (-torch.rand(length, generator=generator) * 3).tolist()
    return Sample(
        group_id="g",
        trajectory_id=str(number),
        token_ids=tuple(torch.randint(VOCABULARY, (length,), generator=generator).tolist()),
        loss_mask=mask,
        logprobs=tuple(value if on else 0.0 for value, on in zip(logprobs, mask, strict=True)),
        advantages=tuple(advantage if on else 0.0 for on in mask),
    )


def random_samples() -> list[Sample]:
    lengths, advantages = [7, 19, 12, 5, 30, 9], [0.5, -0.7, 1.1, -0.2, 0.4, -1.3]
    return [random_sample(number, *pair) for number, pair in enumerate(zip(lengths, advantages, strict=True))]


class ToySampler:
    """Samples bandit groups with the weights that were published last: source and publisher in one.

    A rollout is two tokens; its reward is the share of them that are `winner`.
    """

    def __init__(self, directory: Path, winner: int, groups: int = 4, size: int = 8) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self._generator = torch.Generator().manual_seed(0)
        self._winner, self._groups, self._size = winner, groups, size
        self.version, self.published, self.updates = 0, [], []

    async def publish(self, weights: Mapping[str, Tensor], version: int) -> None:
        self._model.load_state_dict(weights)
        self.version = version
        self.published.append(version)

    async def take_batch(self, policy_version: int) -> TakenBatch:
        number = self._number()
        self._held = [self._group(f"group-{number}-{index}") for index in range(self._groups)]
        return TakenBatch(f"batch-{number}", self._held)

    def _number(self) -> int:
        return len(self.updates)

    async def refill(self, batch_id: str, refused: Sequence[str], policy_version: int) -> TakenBatch:
        self._held = [one for one in self._held if one.id not in refused]
        self._held += [self._group(f"{name}-again") for name in refused]
        return TakenBatch(batch_id, self._held)

    async def acknowledge(self, batch_id: str, update: Update) -> None:
        self.updates.append(update)

    @torch.no_grad()
    def _group(self, name: str) -> ScoredGroup:
        prompt = torch.tensor([[1, 2, 3]]).repeat(self._size, 1)
        ids, logprobs = prompt, []
        for _ in range(2):
            log_p = torch.log_softmax(self._model(ids).logits[:, -1], dim=-1)
            drawn = torch.multinomial(log_p.exp(), 1, generator=self._generator)
            ids, logprobs = torch.cat([ids, drawn], dim=1), [*logprobs, log_p.gather(1, drawn)]
        rows = zip(ids[:, 3:].tolist(), torch.cat(logprobs, dim=1).tolist(), strict=True)
        return group(name, [self._trajectory(f"{name}-{index}", *row) for index, row in enumerate(rows)])

    def _trajectory(self, name: str, drawn: list[int], logprobs: list[float]) -> Trajectory:
        one = turn([1, 2, 3], drawn, self.version).model_copy(update={"logprobs": tuple(logprobs)})
        return scored(name, drawn.count(self._winner) / len(drawn), [one])
