"""Supervised learning on conversations: the loss counts what the assistant wrote, and nothing else.

Makes the policy that `natgym up` starts from. Rows come as token ids with a mask, in the order in which they are
to be learnt from; each is seen once a pass.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from core.config import Config
from core.logs import get_logger
from core.types import Message, Role, TokenIds, ToolSpec, Turn
from tool_call_parsers.rendering import Renderer, TokenSession
from trainer.copying import plant_copying

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

log = get_logger("sft")


class SftConfig(Config):
    """How a policy learns from demonstrations."""

    steps: int = 3400
    tokens_per_step: int = 5000
    """Rows are gathered until a step holds about that many tokens, padding included."""
    learning_rate: float = 2.5e-3
    warmup_steps: int = 30
    final_share: float = 0.02
    """Share of the learning rate that a cosine schedule ends at."""
    weight_decay: float = 0.05
    grad_clip: float = 1.0
    seed: int = 0
    threads: int = 2


class SftRow(NamedTuple):
    """One conversation: token_ids (T) and whether each of them is learnt (T)."""

    token_ids: TokenIds
    loss_mask: tuple[bool, ...]


def conversation_row(renderer: Renderer, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> SftRow:
    """The row of a conversation, with the token ids that an episode with the same words would have.

    Each assistant message is encoded on its own and the rest is the template's, as in TokenSession.
    """
    first = next(index for index, message in enumerate(messages) if message.role is Role.ASSISTANT)
    opening, rest = messages[:first], messages[first:]
    session, turns = TokenSession(renderer, tools), list[Turn]()
    ids: list[int] = []
    mask: list[bool] = []
    for spoken, answers in _turns(rest):
        prompt = session.prompt(opening, turns)
        completion = (*renderer.encode(spoken.content), renderer.eos_ids[0])
        mask += [False] * (len(prompt) - len(ids)) + [True] * len(completion)
        ids = [*prompt, *completion]
        turns.append(
            Turn(
                prompt_ids=prompt,
                completion_ids=completion,
                logprobs=(0.0,) * len(completion),
                message=spoken,
                observations=tuple(answers),
            )
        )
    return SftRow(tuple(ids), tuple(mask))


def train_sft(
    model: "PreTrainedModel",
    rows: Iterable[SftRow],
    config: SftConfig,
    on_step: Callable[[int, float, float], None] = lambda step, loss, seconds: None,
) -> None:
    """Learn from rows, in place. `on_step` hears step, mean loss a learnt token in nats, and seconds so far.

    AdamW with warm-up and a cosine schedule; stops after `config.steps` or when the rows end.
    """
    import torch

    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    optimiser = torch.optim.AdamW(
        _parameter_groups(model, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.95), fused=True
    )
    started = time.monotonic()
    model.train()
    for step, batch in zip(range(config.steps), batches(rows, config.tokens_per_step), strict=False):
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * schedule(step, config)
        loss = row_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        on_step(step + 1, float(loss.detach()), time.monotonic() - started)


def row_loss(model: "PreTrainedModel", rows: Sequence[SftRow]) -> "torch.Tensor":
    """Mean negative log-likelihood of the learnt tokens of a batch, in nats."""
    import torch

    width = max(len(row.token_ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, : len(row.token_ids)] = torch.tensor(row.token_ids)
        mask[number, : len(row.token_ids)] = torch.tensor(row.loss_mask)
    # rows are padded on the right and attention is causal, so padding reaches nothing that is learnt
    hidden = model.get_decoder()(input_ids=ids).last_hidden_state[:, :-1][mask[:, 1:]]
    logits = hidden @ model.get_input_embeddings().weight.T  # the policy's embeddings are tied
    return torch.nn.functional.cross_entropy(logits, ids[:, 1:][mask[:, 1:]])


def batches(rows: Iterable[SftRow], tokens: int, window: int = 256) -> Iterator[list[SftRow]]:
    """Rows of similar length together, `tokens` a batch with padding; a window keeps the order roughly."""
    waiting: list[SftRow] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == window:
            yield from _pack(waiting, tokens)
            waiting = []
    yield from _pack(waiting, tokens)


def schedule(step: int, config: SftConfig) -> float:
    """Share of the learning rate at a step: linear warm-up, then a cosine down to `final_share`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.final_share + (1 - config.final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def new_policy(directory: Path, renderer: Renderer, seed: int = 0) -> "PreTrainedModel":
    """A small Qwen3 for a tokenizer, random but for what it takes to copy; its config is written to `directory`.

    Two million parameters: wide enough to hold the domain, and deep enough to copy (two layers find where a word
    stood, two more choose).
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        vocab_size=renderer.vocab_size,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,  # queries and keys are normalised: the width of a head bounds how sharply it can look
        intermediate_size=576,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        eos_token_id=renderer.eos_ids[0],
        bos_token_id=None,
    )
    config.save_pretrained(directory)
    model = Qwen3ForCausalLM(config)
    plant_copying(model, seed)
    return model


def _pack(rows: list[SftRow], tokens: int) -> Iterator[list[SftRow]]:
    packs: list[list[SftRow]] = [[]]
    for row in sorted(rows, key=lambda row: len(row.token_ids)):
        if packs[-1] and (len(packs[-1]) + 1) * len(row.token_ids) > tokens:
            packs.append([])
        packs[-1].append(row)
    # short rows first would be a curriculum by length; a fixed stride mixes them without a random state
    order = sorted(range(len(packs)), key=lambda number: (number * 7919) % len(packs)) if packs[0] else []
    yield from (packs[number] for number in order)


def _turns(messages: Sequence[Message]) -> Iterator[tuple[Message, list[Message]]]:
    spoken: Message | None = None
    answers: list[Message] = []
    for message in messages:
        if message.role is Role.ASSISTANT:
            if spoken is not None:
                yield spoken, answers
            spoken, answers = message, []
        else:
            answers.append(message)
    if spoken is not None:
        yield spoken, answers


def _parameter_groups(model: "PreTrainedModel", decay: float) -> "list[dict[str, list[torch.nn.Parameter] | float]]":
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
