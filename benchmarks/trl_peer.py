"""GRPO steps of TRL on demand: run by the interpreter of TRL's own environment, driven over its standard streams.

It says what it is once it is ready, makes one optimiser step for each line that it is told, and
answers with what the step took.
"""

import json
import os
import random
import sys
import time

import torch
import trl
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

STEPS = 10_000


class OnDemand(TrainerCallback):
    """Waits for a line before each step, and answers after it."""

    def __init__(self):
        self.rewards = []

    def on_step_begin(self, args, state, control, **others):
        if not sys.stdin.readline():
            os._exit(0)
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def on_step_end(self, args, state, control, **others):
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        print(json.dumps({"cpu": cpu, "wall": wall, "reward": sum(self.rewards) / len(self.rewards)}), flush=True)
        self.rewards.clear()


def main():
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    chance, on_demand = random.Random(asked["seed"]), OnDemand()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(asked["model"])
    words = [f"t{chance.randrange(asked['vocabulary'])}" for _ in range(64 * asked["prompt"])]
    prompts = [" ".join(words[start : start + asked["prompt"]]) for start in range(0, len(words), asked["prompt"])]

    def even_tokens(completion_ids, **others):
        shares = [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]
        on_demand.rewards += shares
        return shares

    config = GRPOConfig(
        output_dir=asked["out"],
        per_device_train_batch_size=asked["groups"] * asked["size"],
        num_generations=asked["size"],
        max_completion_length=asked["length"],
        generation_kwargs={"min_new_tokens": asked["length"]},
        learning_rate=asked["lr"],
        lr_scheduler_type="constant",
        max_steps=STEPS,
        gradient_checkpointing=False,  # it would compute twice what there is memory for
        use_cpu=True,
        bf16=False,
        seed=asked["seed"],
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    data = Dataset.from_list([{"prompt": prompt} for prompt in prompts])
    trainer = GRPOTrainer(
        asked["model"],
        reward_funcs=even_tokens,
        args=config,
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[on_demand],
    )
    print(json.dumps({"trl": trl.__version__, "torch": torch.__version__}), flush=True)
    trainer.train()


if __name__ == "__main__":
    main()
