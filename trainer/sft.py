"""Supervised learning on conversations: the loss counts what the assistant wrote, and nothing else.

Makes the policy that `natgym up` starts from. Rows come as token ids with a mask, in packs, in the order in which they
are to be learnt from.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from core.config import Config
from core.errors import TrainingError
from tool_call_parsers.rendering import Renderer
from trainer.copying import plant_copying
from trainer.sft_rows import SftRow
from trainer.sft_save import SftSave

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class SftConfig(Config):
    """How a policy learns from demonstrations."""

    steps: int = Field(default=3400, gt=0)
    learning_rate: float = Field(default=2.5e-3, gt=0)
    warmup_steps: int = Field(default=30, ge=0)
    final_share: float = Field(default=0.02, ge=0, le=1)
    """Share of the learning rate that a cosine schedule ends at."""
    weight_decay: float = Field(default=0.05, ge=0)
    grad_clip: float = Field(default=1.0, gt=0)
    seed: int = 0
    threads: int = Field(default=2, gt=0)


def train_sft(
    model: "PreTrainedModel",
    packs: Iterable[Sequence[SftRow]],
    config: SftConfig,
    on_step: Callable[[int, float, float], None] = lambda step, loss, seconds: None,
    save: SftSave | None = None,
) -> None:
    """Learn from packs of rows, one a step, in place. AdamW with warm-up and a cosine schedule.

    `on_step` hears step, mean loss a learnt token in nats, and seconds so far. Stops after `config.steps` or when the
    packs end. With a `save` it goes on where that stands; the packs have to be the same, from the first. Raises
    TrainingError for a loss or a gradient that is no number.
    """
    import torch

    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    optimiser = torch.optim.AdamW(
        _parameter_groups(model, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.95), fused=True
    )
    done = save.restore(model, optimiser) if save else 0
    started = time.monotonic()
    model.train()
    for step, batch in zip(range(config.steps), packs, strict=False):
        if step < done:
            continue
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * schedule(step, config)
        loss = row_loss(model, batch)
        if not math.isfinite(said := float(loss.detach())):
            raise TrainingError(f"step {step + 1}: the loss is {said}; a lower learning rate may help")
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip).item()
        if not math.isfinite(norm):  # a step would spoil the weights, and the save after it
            raise TrainingError(f"step {step + 1}: the gradient's norm is {norm}; a lower learning rate may help")
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if save and save.due(step + 1):
            save.write(step + 1, model, optimiser)
        on_step(step + 1, said, time.monotonic() - started)


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
    head = model.get_output_embeddings()
    assert head is not None, "a causal language model has a head"
    return torch.nn.functional.cross_entropy(head(hidden), ids[:, 1:][mask[:, 1:]])


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


def _parameter_groups(model: "PreTrainedModel", decay: float) -> "list[dict[str, list[torch.nn.Parameter] | float]]":
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
