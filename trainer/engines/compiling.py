"""The parts of a model's blocks by torch.compile, where a trial at the start shows that they work and say the same.

Compiled are the norms, the projections and the MLP of each block and the scores over the vocabulary; layers of one shape
share what was compiled. Attention over a pack stays as it is, and so does what is around the parts: checkpointing and
the hooks of FSDP. Lengths are dynamic from the start, so that packs of other lengths do not compile anew.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from core.logs import get_logger
from trainer.engines.scoring import Scorer, blocks

log = get_logger("torch_engine")
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
            distance = scorer.difference(_numbers(scorer), plain)
    except Exception as error:  # the compiler's own words: no C++ compiler, an operation that it does not know
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:REASON_LENGTH]
    else:
        if distance is None:
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
    """Logprobs of the trial's rows, and each learned vector's share of the gradient's norm; of adapters, each matrix's."""
    logprobs = scorer(*scorer.trial())[0]
    logprobs.sum().backward()  # not autograd.grad: where several processes divide the model, only this gathers gradients
    slopes = [parameter.grad for parameter in scorer.parameters() if parameter.grad is not None]
    # those of matrices are so much larger that beside them no error in a vector's would be seen
    norms = [slope.norm() for slope in [slope for slope in slopes if slope.dim() == 1] or slopes]
    whole = torch.stack([norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]).to(logprobs.device)
    scorer.zero_grad()
    return torch.cat([logprobs.detach().flatten(), whole / whole.norm()])
