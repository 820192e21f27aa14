"""The parts of a model's blocks by torch.compile, where a trial at the start shows that they work and say the same.

Compiled are the norms, the projections and the MLP of each block and the scores over the vocabulary; layers of one shape
share what was compiled. Attention over a pack stays as it is, and so does what is around the parts: checkpointing and
the hooks of FSDP. Lengths are dynamic from the start, so that packs of other lengths do not compile anew.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from core.logs import get_logger
from trainer.engines.scoring import HEAD_TOLERANCE, Scorer, blocks

log = get_logger("torch_engine")
ROUNDED_TOLERANCE = 5e-2  # nats on average: what is compiled rounds to 16 bits less often
REASON_LENGTH = 300


def compile_parts(scorer: Scorer, backend: str | Callable[..., object] = "inductor") -> bool:
    """Compile in place. False, with a warning that names the reason, where it fails or numbers differ: nothing changed."""
    parts = [part for block in blocks(scorer.model) for part in block.children()]
    plain = _numbers(scorer)
    for part in parts:
        part.forward = torch.compile(part.forward, dynamic=True, backend=backend)
    log.info("compiling", parts=len(parts) + 1)  # minutes on a large model
    scorer.scores = torch.compile(scorer.scores, dynamic=True, backend=backend)
    try:
        with torch._dynamo.config.patch(suppress_errors=False):
            distance = (_numbers(scorer) - plain).abs().mean().item()
    except Exception as error:  # the compiler's own words: no C++ compiler, an operation that it does not know
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:REASON_LENGTH]
    else:
        if distance < (ROUNDED_TOLERANCE if scorer.rounds else HEAD_TOLERANCE):
            # a shape that cannot be compiled later on is computed as it was, and torch warns with the reason
            torch._dynamo.config.suppress_errors = True
            return True
        reason = f"compiled parts differ by {distance:.1g}"
    for part in (*parts, scorer):
        part.__dict__.pop("forward", None)
        part.__dict__.pop("scores", None)
    log.warning("not_compiled", reason=reason)
    return False


def _numbers(scorer: Scorer) -> Tensor:
    """Logprobs of the trial's rows, and each learned vector's share of the gradient's norm; of adapters, each matrix's.

    Not of all matrices: a model that is to be divided among processes may have no room for them here.
    """
    logprobs = scorer(*scorer.trial())[0]
    learned = [parameter for parameter in scorer.parameters() if parameter.requires_grad]
    vectors = [parameter for parameter in learned if parameter.dim() == 1]
    slopes = torch.autograd.grad(logprobs.sum(), vectors or learned, allow_unused=True)
    norms = torch.stack([slope.norm() for slope in slopes if slope is not None])
    return torch.cat([logprobs.detach().flatten(), norms / norms.norm()])
