"""A directory that a user named: whole, or one line that says what is wrong with it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.errors import ConfigError
from trainer.model_folder import read_model


def test_a_name_that_is_no_directory_is_refused_without_the_internet(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nowhere: no config\.json there; expected a Hugging Face directory"):
        read_model(tmp_path / "nowhere", torch.float32)


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("model.safetensors", None, "no file named model.safetensors"),
        ("model.safetensors", "not weights", "deserializing"),
        ("config.json", '{"model_type": "qw', "not a valid JSON"),
        ("config.json", '{"model_type": "nonsense"}', "nonsense"),
    ],
)
def test_a_broken_directory_is_one_line_that_names_it(
    toy_model: Path, tmp_path: Path, file: str, content: str | None, problem: str
):
    shutil.copytree(toy_model, tmp_path / "model")
    path = tmp_path / "model" / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=f"model {tmp_path / 'model'}: .*{problem}") as told:
        read_model(tmp_path / "model", torch.float32)
    assert "\n" not in str(told.value)


def test_weights_that_are_missing_are_not_made_up(toy_model: Path, tmp_path: Path):
    shutil.copytree(toy_model, tmp_path / "model")
    weights = load_file(toy_model / "model.safetensors")
    gone = next(name for name in weights if "mlp" in name)
    kept = {name: value for name, value in weights.items() if name != gone}
    save_file(kept, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=f"1 weights are missing: {gone}"):
        read_model(tmp_path / "model", torch.float32)


def test_weights_of_another_shape_are_refused(toy_model: Path, tmp_path: Path):
    shutil.copytree(toy_model, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "intermediate_size": 7}))
    with pytest.raises(ConfigError, match=f"model {tmp_path / 'model'}"):
        read_model(tmp_path / "model", torch.float32)
