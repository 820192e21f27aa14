"""Draws one token a row from logits, with the logprob of the distribution that it was drawn from."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.inference.base import SamplingParams


def draw(logits: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float]) -> tuple[list[int], list[float]]:
    """Tokens and logprobs (B) from logits (B, vocab), by inverting the cumulative distribution at `uniforms` (B).

    Greedy rows take the likeliest token, with its logprob at temperature 1. NaN logits give NaN logprobs.
    Cumulative sum and search cost a tenth of torch.multinomial, and one uniform a token makes a seed reproducible.
    """
    greedy = [one.greedy for one in params]
    temperatures = [1.0 if one.greedy else one.temperature for one in params]
    if any(temperature != 1.0 for temperature in temperatures):
        logits = logits / torch.tensor(temperatures, device=logits.device).unsqueeze(1)
    logprobs = logits.log_softmax(-1)
    if any((one.top_k or one.top_p < 1.0 or one.min_p) and not one.greedy for one in params):
        logprobs = _truncated(logprobs, params)
    cumulative = logprobs.exp().cumsum(-1)
    total = cumulative[:, -1:]
    target = torch.tensor(uniforms, dtype=cumulative.dtype, device=logits.device).unsqueeze(1) * total
    # a product rounded up to the total would pick the last token, likely or not
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, target, right=True).clamp_(max=logits.shape[1] - 1)
    if any(greedy):
        takes_best = torch.tensor(greedy, device=logits.device).unsqueeze(1)
        tokens = torch.where(takes_best, logprobs.argmax(-1, keepdim=True), tokens)
    return tokens.squeeze(1).tolist(), logprobs.gather(1, tokens).squeeze(1).tolist()


def masked(logits: Tensor, allowed: Sequence[bytes | None]) -> Tensor:
    """Logits (B, vocab), with -inf for the tokens that a row does not allow; None allows any.

    A mask holds one bit a token, least significant first. The same tensor where no row has one.
    """
    if all(bits is None for bits in allowed):
        return logits
    logits = logits.clone()
    for row, bits in enumerate(allowed):
        if bits is not None:
            logits[row].masked_fill_(_forbidden(bits, logits.shape[1]).to(logits.device), -torch.inf)
    return logits


def _forbidden(bits: bytes, vocabulary: int) -> Tensor:
    """Whether each token (vocab) is left out of a mask."""
    octets = torch.frombuffer(bytearray(bits), dtype=torch.uint8)
    known = ((octets.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1).flatten()[:vocabulary] == 0
    forbidden = torch.ones(vocabulary, dtype=torch.bool)
    forbidden[: len(known)] = known
    return forbidden


def _truncated(logprobs: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Logprobs after top_k, then top_p, then min_p, renormalised; -inf for what was cut. The likeliest token always stays."""
    vocabulary, device = logprobs.shape[1], logprobs.device
    keep_k = torch.tensor([[vocabulary if one.greedy else one.top_k or vocabulary] for one in params], device=device)
    keep_p = torch.tensor([[1.0 if one.greedy else one.top_p] for one in params], device=device)
    # of the likeliest token's probability; minus infinity, the log of 0, keeps all
    keep_m = torch.tensor([[0.0 if one.greedy else one.min_p] for one in params], device=device).log()
    ordered, order = logprobs.sort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(vocabulary, device=device)
    ordered = ordered.masked_fill(ranks >= keep_k, -torch.inf).log_softmax(-1)
    mass = ordered.exp()
    before = mass.cumsum(-1) - mass
    cut = ((before >= keep_p) & (keep_p < 1.0)) | (ordered < ordered[:, :1] + keep_m)
    cut[:, 0] = False
    ordered = ordered.masked_fill(cut, -torch.inf).log_softmax(-1)
    return torch.empty_like(logprobs).scatter_(1, order, ordered)
