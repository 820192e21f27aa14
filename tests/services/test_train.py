"""`natgym train --dry-run`: what would run and what it would need, without running it."""

import json
import subprocess
from pathlib import Path

from tests.services.small_policy import ROOT, natgym

GPU = str(ROOT / "services" / "configs" / "gpu_24gb.toml")


def dry_run(model: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return natgym("train", "gsm8k", "--dry-run", "--model", str(model), *arguments)


def test_a_dry_run_tells_the_resolved_config_and_the_memory(random_policy: Path):
    done = dry_run(random_policy, "--json", "--config", GPU, "--steps", "7", "--set", "trainer.algorithm.lr=0.25")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    trainer, memory = told["config"]["trainer"], told["memory"]
    assert (trainer["loop"]["max_steps"], trainer["algorithm"]["lr"], trainer["engine"]["lora"]["rank"]) == (7, 0.25, 32)
    assert 0 < memory["learned"] < memory["parameters"]
    assert memory["parts"]["optimiser"] == 8 * memory["learned"]


def test_a_dry_run_divides_by_the_processes_that_the_config_names(random_policy: Path):
    done = dry_run(random_policy, "--config", str(ROOT / "services" / "configs" / "h100_8.toml"))
    assert done.returncode == 0, done.stderr
    assert "in each of 4 processes" in done.stdout
    assert "GiB of the host's memory" in done.stdout
    assert "copy for the sampler" not in done.stdout


def test_the_config_for_24_gb_fits_a_model_of_one_and_a_half_billion_parameters(tmp_path: Path):
    shape = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "max_position_embeddings": 32768}
    heads = {"num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", **shape, **heads}))
    done = dry_run(tmp_path, "--json", "--config", GPU)
    assert done.returncode == 0, done.stderr
    memory = json.loads(done.stdout)["memory"]
    assert memory["parameters"] == 1_543_714_304
    assert 18 << 30 < sum(memory["parts"].values()) < 22 << 30


def test_a_wrong_key_is_one_line(random_policy: Path):
    done = dry_run(random_policy, "--set", "trainer.algorithm.clip_lo=0.1")
    assert done.returncode == 2
    assert "did you mean 'clip_low'" in done.stderr
    assert "Traceback" not in done.stderr
