"""Writes model directories that are small enough for a test."""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

from tests.tool_call_parsers.tiny_model import KEEPS_THINKING, tiny_tokenizer, write_model

torch.set_num_threads(1)
transformers_logging.disable_progress_bar()


class Reference:
    """The oracle: a plain float32 forward of the whole sequence, without any cache."""

    def __init__(self, model_dir: Path) -> None:
        self.model = Qwen3ForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()

    def logprobs(self, prompt: Sequence[int], completion: Sequence[int], temperature: float = 1.0) -> torch.Tensor:
        """Logprobs (C) of a completion."""
        with torch.inference_mode():
            logits = self.model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
        return (logits / temperature).log_softmax(-1).gather(1, torch.tensor([completion]).T).squeeze(1)

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The `count` likeliest tokens, one after the other."""
        ids = list(prompt)
        for _ in range(count):
            with torch.inference_mode():
                ids.append(int(self.model(torch.tensor([ids])).logits[0, -1].argmax()))
        return ids[len(prompt) :]


def write_tiny_model(directory: Path, seed: int) -> Path:
    """A random Qwen3 of 2 layers with a tokenizer and a chat template, stored in float16 as ours are."""
    write_model(directory, KEEPS_THINKING)
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=tiny_tokenizer().get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).half().save_pretrained(directory)
    return directory


def some_tokens(count: int, seed: int = 0) -> tuple[int, ...]:
    """Token ids without markers, the same for the same seed."""
    return tuple(random.Random(seed).randrange(10, 400) for _ in range(count))
