"""A model directory that is not a plain Qwen3 is refused with one clear line."""

import json
from pathlib import Path
from shutil import copytree

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from core.errors import ConfigError
from tests.trainer.inference.tiny import Reference, some_tokens
from trainer.inference.feed import Feed
from trainer.inference.qwen3 import Qwen3


def changed(model_dir: Path, target: Path, **config: object) -> Path:
    """A copy of the model directory with other values in config.json."""
    copytree(model_dir, target)
    data = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**data, **config}))
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, r"\['LlamaForCausalLM'\]; the local engine decodes \['Qwen3ForCausalLM'\]"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type is 'yarn'"),
        ({"attention_bias": True}, "attention_bias is set"),
        ({"hidden_size": "large"}, "hidden_size: .*found 'large'"),
    ],
)
def test_another_architecture_is_refused(model_dir: Path, tmp_path: Path, change: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        Qwen3.load(changed(model_dir, tmp_path / "model", **change))


def test_a_directory_without_weights_is_refused(model_dir: Path, tmp_path: Path):
    directory = changed(model_dir, tmp_path / "model")
    (directory / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model\.safetensors: is missing"):
        Qwen3.load(directory)


def test_a_model_with_its_own_output_matrix_is_decoded_exactly(tmp_path: Path):
    torch.manual_seed(0)
    shape = {"vocab_size": 411, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64}
    Qwen3ForCausalLM(Qwen3Config(**shape, **heads, tie_word_embeddings=False)).save_pretrained(tmp_path)
    model, prompt = Qwen3.load(tmp_path), some_tokens(20)
    logits = model.forward(Feed.runs([list(prompt)], [0], 0, "cpu"), model.slab(1, len(prompt)))
    likeliest = int(logits.argmax())
    expected = Reference(tmp_path).logprobs(prompt, [likeliest])
    torch.testing.assert_close(logits.log_softmax(-1)[0, [likeliest]], expected, rtol=0, atol=1e-5)
