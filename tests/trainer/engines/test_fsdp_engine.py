"""Two processes with gloo make the steps that one makes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from core.errors import ConfigError
from tests.trainer.engines import two_processes
from tests.trainer.engines.two_processes import MICRO_BATCH_TOKENS
from trainer.engines.fsdp_engine import FsdpEngine, FsdpEngineConfig
from trainer.engines.lora import LoraSettings
from trainer.engines.torch_engine import TorchEngine, TorchEngineConfig
from trainer.weights import WeightFormat, save_model

ROOT = Path(__file__).parents[3]
TOLERANCE = 1e-4
LIMIT_SECONDS = 300


def test_two_processes_learn_what_one_learns(toy_model: Path, tmp_path: Path):
    toy_model = in_16_bits(toy_model, tmp_path / "rounded")  # read as it is, and widened while it is divided
    (two := tmp_path / "two").mkdir()
    (one := tmp_path / "one").mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = [str(ROOT / "tests/trainer/engines/two_processes.py"), str(toy_model), str(two)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*command, *script], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    theirs = torch.load(two / "came_out.pt")
    config = TorchEngineConfig(micro_batch_tokens=MICRO_BATCH_TOKENS)
    alone = TorchEngine(toy_model, config)
    assert theirs["first_half"] == pytest.approx(two_processes.first_half(alone, one), abs=TOLERANCE)
    ours = two_processes.second_half(TorchEngine(toy_model, config), one)
    assert theirs["second_half"]["figures"] == pytest.approx(ours["figures"], abs=TOLERANCE)
    torch.testing.assert_close(theirs["second_half"]["logprobs"], ours["logprobs"], atol=TOLERANCE, rtol=TOLERANCE)
    for name, value in ours["weights"].items():
        torch.testing.assert_close(theirs["second_half"]["weights"][name], value, atol=TOLERANCE, rtol=TOLERANCE, msg=name)
    assert AutoModelForCausalLM.from_pretrained(two / "model").num_parameters() > 0


def in_16_bits(model: Path, target: Path) -> Path:
    weights = AutoModelForCausalLM.from_pretrained(model).state_dict()
    save_model(weights, model, target, WeightFormat.BFLOAT16)
    return target


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_here_is_told_before_processes_join(toy_model: Path):
    with pytest.raises(ConfigError, match=r"engine\.device 'cuda' cannot be used"):
        FsdpEngine(toy_model, FsdpEngineConfig(device="cuda"))


def test_what_cannot_be_divided_is_refused(toy_model: Path):
    with pytest.raises(ConfigError, match="settings of the engine torch"):
        FsdpEngine(toy_model, FsdpEngineConfig(lora=LoraSettings()))
