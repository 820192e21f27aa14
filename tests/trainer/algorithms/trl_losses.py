"""Losses and gradients of TRL for given numbers; run by the interpreter of TRL's own environment.

Reads a file of cases that torch saved, and writes beside it what TRL's own `_compute_loss` makes of each.
"""

import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from trl import GRPOConfig, GRPOTrainer


def came_out(case, folder):
    """The loss of one case and its gradient by the policy's logprobs."""
    settings = GRPOConfig(output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", **case["settings"])
    logprobs = case["logprobs"].clone().requires_grad_()
    trainer = SimpleNamespace(
        args=settings,
        accelerator=Accelerator(cpu=True),  # a config forgets the one before it
        model=SimpleNamespace(training=True),
        loss_type=settings.loss_type,
        importance_sampling_level=settings.importance_sampling_level,
        beta=settings.beta,
        epsilon_low=settings.epsilon,
        epsilon_high=settings.epsilon_high if settings.epsilon_high is not None else settings.epsilon,
        max_completion_length=settings.max_completion_length,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
    )
    inputs = {
        "prompt_ids": torch.zeros(len(logprobs), 1, dtype=torch.int64),
        "prompt_mask": torch.ones(len(logprobs), 1, dtype=torch.int64),
        "completion_ids": torch.zeros(logprobs.shape, dtype=torch.int64),
        "completion_mask": case["mask"].long(),
        "advantages": case["advantages"],
        "old_per_token_logps": case["old"],
        "ref_per_token_logps": case["reference"],
        "num_items_in_batch": case["mask"].sum(),
    }
    loss = GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.item(), gradient


def main():
    path = Path(sys.argv[1])
    torch.save([came_out(case, path.parent) for case in torch.load(path)], path.with_suffix(".out"))


if __name__ == "__main__":
    main()
