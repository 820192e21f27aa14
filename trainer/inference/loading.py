"""The fastest decoder that computes a model exactly.

Qwen3 has a forward pass of its own. Any other causal model of `transformers` is tried first with its attention over
our slab, then row by row with its own cache; what gives other logprobs than a plain forward is not used.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.config import read_file
from core.errors import ConfigError
from core.logs import get_logger
from trainer.inference.decoder import Decoder
from trainer.inference.feed import Feed
from trainer.inference.packed_decoder import ATTENTION, PackedDecoder
from trainer.inference.qwen3 import Qwen3, Qwen3Config
from trainer.inference.replay import ReplayingDecoder, record_on_cuda
from trainer.inference.row_decoder import RowDecoder
from trainer.model_folder import read_model

log = get_logger("inference")

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Nats between two ways to compute a logprob, on average: a model of 16 bits rounds at every step."""
PROBE_TOKENS, LONGEST_PROBE = 40, 520
BEYOND_WINDOW = 8


def load_decoder(model_dir: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Decoder:
    """The decoder of a Hugging Face directory. On CUDA its steps are recorded. Raises ConfigError, TrainingError."""
    _check_device(device)
    decoder = _plain_decoder(model_dir, device, dtype)
    if torch.device(device).type == "cuda" and isinstance(decoder, Qwen3 | PackedDecoder):
        return ReplayingDecoder(decoder, record_on_cuda)
    return decoder


def _plain_decoder(model_dir: Path, device: str, dtype: torch.dtype) -> Decoder:
    architectures = read_file(model_dir / "config.json").get("architectures")
    if architectures == ["Qwen3ForCausalLM"] and _is_plain(model_dir):
        return Qwen3.load(model_dir, device, dtype)
    model = read_model(model_dir, dtype)
    return exact_decoder(model.to(device).eval(), device)  # pyright: ignore[reportArgumentType]


def exact_decoder(model: PreTrainedModel, device: str = "cpu") -> Decoder:
    """The first way to decode a model whose logprobs are those of a plain forward. Raises ConfigError."""
    tokens = _probe_tokens(model, device)
    with torch.inference_mode():
        expected = model(input_ids=tokens, use_cache=False).logits.float().log_softmax(-1)
    problems: list[str] = []
    for name, make in _ways(model, device):
        try:
            error = _deviation(make(), tokens, expected)
        except Exception as failure:  # the model's own code says in its own words what it cannot do
            problems.append(f"{name}: {type(failure).__name__}: {failure}")
            continue
        if error <= TOLERANCE[model.dtype]:
            told = log.warning if problems else log.info  # a slower way than the fastest is worth knowing, and why
            told("decoder_chosen", model=type(model).__name__, way=name, deviation=f"{error:.1e}", refused=problems)
            return make()
        problems.append(f"{name}: logprobs are off by {error:.1e} nats")
    raise ConfigError(f"{type(model).__name__} cannot be decoded exactly: {'; '.join(problems)[:600]}")


def _ways(model: PreTrainedModel, device: str) -> Iterator[tuple[str, Callable[[], Decoder]]]:
    """Names of the ways and what makes a decoder of each, the fastest first. The model is set up for the latest."""
    usual = model.config._attn_implementation or "eager"
    if type(model).is_backend_compatible():
        model.set_attn_implementation(ATTENTION)
        yield "packed", lambda: PackedDecoder(model, device)
        model.set_attn_implementation(usual)
    yield "rows", lambda: RowDecoder(model, device)
    yield "rows, token by token", lambda: RowDecoder(model, device, one_by_one=True)


def _deviation(decoder: Decoder, tokens: Tensor, expected: Tensor) -> float:
    """Mean distance in nats of what a decoder says after texts that it was given in parts, beside a shorter one."""
    long, short = tokens[0].tolist(), tokens[1].tolist()[: tokens.shape[1] // 3]
    cut, slab = len(long) // 2, decoder.slab(2, len(long))
    decoder.forward(Feed.runs([long[:cut], short[:-1]], [0, 0], 0, decoder.device), slab)
    steps = [
        (Feed.runs([long[cut:-1]], [cut], 0, decoder.device), [(0, len(long) - 2)]),
        (
            Feed.one_each([long[-1], short[-1]], [len(long) - 1, len(short) - 1], decoder.device),
            [(0, len(long) - 1), (1, len(short) - 1)],
        ),
    ]
    distances = []
    for feed, places in steps:
        told = decoder.forward(feed, slab).log_softmax(-1)
        distances += [float((told[row] - expected[text, at]).abs().mean()) for row, (text, at) in enumerate(places)]
    return max(distances)


def _probe_tokens(model: PreTrainedModel, device: str) -> Tensor:
    """Two texts of random tokens (2, T), longer than a sliding window where that is short enough."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or 0
    count = min(max(PROBE_TOKENS, window + BEYOND_WINDOW), LONGEST_PROBE)
    chance = torch.Generator().manual_seed(0)
    return torch.randint(config.vocab_size, (2, count), generator=chance).to(device)


def _is_plain(model_dir: Path) -> bool:
    """Whether our own forward pass knows all that this model has."""
    try:
        Qwen3Config.read(model_dir)
    except ConfigError as error:
        log.info("decoder_not_ours", reason=str(error))
        return False
    return True


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        problem = str(error).splitlines()[0]
        raise ConfigError(f"inference.device {device!r} cannot be used: {problem}") from error
