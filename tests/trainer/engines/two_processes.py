"""What each process of the two does; process 0 writes what came out. Run by torchrun with a model and a folder."""

import sys
from contextlib import closing
from pathlib import Path

import torch

from tests.trainer.toy import random_samples
from trainer.algorithms.base import AdamParams
from trainer.algorithms.grpo import GRPO
from trainer.batch import collate
from trainer.engines.fsdp_engine import FsdpEngine, FsdpEngineConfig
from trainer.engines.torch_engine import TorchEngine

MICRO_BATCH_TOKENS = 31  # an odd number of micro-batches: one process has nothing to do in the last round


def steps(engine: TorchEngine, count: int) -> list[float]:
    batch, figures = collate(random_samples()), list[float]()
    for _ in range(count):
        measured = engine.forward_backward(batch, GRPO().loss)
        figures += [measured.loss, engine.optim_step(AdamParams(lr=0.01)), measured.means["dlogp"], measured.maxima["dlogp"]]
    return figures


def first_half(engine: TorchEngine, out: Path) -> list[float]:
    """Two steps and a checkpoint."""
    figures = steps(engine, 2)
    engine.save(out)
    return figures


def second_half(engine: TorchEngine, out: Path) -> dict[str, object]:
    """Two more, by an engine that starts from the checkpoint."""
    engine.load(out)
    figures = steps(engine, 2)
    logprobs, whole = engine.logprobs(collate(random_samples())), engine.state_dict()
    with closing(engine.each_weight()) as some:
        next(some)  # who takes one leaves no process behind
    each = dict(engine.each_weight())
    assert all(torch.equal(whole[name], value) for name, value in each.items())
    return {"figures": figures, "weights": each, "logprobs": logprobs}


def main(model: Path, out: Path) -> None:
    came_out: dict[str, object] = {}
    for half in (first_half, second_half):
        other = half is second_half
        config = FsdpEngineConfig(micro_batch_tokens=MICRO_BATCH_TOKENS, processes=2, offload=other)
        engine = FsdpEngine(model, config, with_reference=other)
        if engine.rank == 0:
            came_out[half.__name__] = half(engine, out)
            engine.close()
        else:
            engine.follow()
    if engine.rank == 0:
        torch.save(came_out, out / "came_out.pt")
    assert not torch.distributed.is_initialized()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
