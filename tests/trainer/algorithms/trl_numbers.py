"""Losses, gradients and advantages of TRL for given numbers; run by the interpreter of TRL's own environment.

Reads a file of cases that torch saved, and writes beside it what TRL's own trainers make of each: `_compute_loss` of the
losses; `_generate_and_score_completions` of the advantages, of trainers with a model of two layers that sample one token.
"""

import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

TRAINERS = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}


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


def advantages(case, model, folder):
    """What the trainer makes of the rewards of some groups, (groups, size) in and out."""
    configure, trainer_class = TRAINERS[case["trainer"]]
    rewards = case["rewards"]
    settings = configure(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to="none",
        per_device_train_batch_size=rewards.numel(),
        num_generations=rewards.shape[1],
        max_completion_length=1,
        **case["settings"],
    )
    prompts = [{"prompt": "t1"} for _ in range(rewards.numel())]
    words = Tokenizer(models.WordLevel({f"t{number}": number for number in range(8)}, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainer_class(
        AutoModelForCausalLM.from_pretrained(model),
        reward_funcs=lambda prompts, **others: rewards.flatten().tolist(),
        args=settings,
        train_dataset=Dataset.from_list(prompts),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=words, eos_token="t7", pad_token="t7"),
    )
    trainer.model.train()  # else it counts with the groups of an evaluation
    return trainer._generate_and_score_completions(prompts)["advantages"].view_as(rewards)


def main():
    path = Path(sys.argv[1])
    asked = torch.load(path)
    losses = [came_out(case, path.parent) for case in asked["losses"]]
    found = [advantages(case, asked["model"], path.parent) for case in asked["advantages"]]
    torch.save({"losses": losses, "advantages": found}, path.with_suffix(".out"))


if __name__ == "__main__":
    main()
