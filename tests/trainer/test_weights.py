"""Weights on disk: what transformers reads back, and never half of it."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from core.errors import TrainingError
from tests.trainer.toy import write_toy_model
from trainer.weights import WeightFormat, read_weights, remove_partial, replaced_directory, save_model, shared_names, snapshot

IDS = torch.tensor([[1, 2, 3, 4]])


def test_transformers_reads_the_same_model_back(toy_model: Path, tmp_path: Path):
    model = AutoModelForCausalLM.from_pretrained(toy_model)
    with torch.no_grad():
        model.model.norm.weight.add_(0.5)
    save_model(model.state_dict(), toy_model, tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_a_snapshot_of_tied_weights_is_written_once(toy_model: Path, tmp_path: Path):
    weights = snapshot(AutoModelForCausalLM.from_pretrained(toy_model).state_dict())
    save_model(weights, toy_model, tmp_path / "saved")
    assert shared_names(weights) == {"lm_head.weight"}
    assert "lm_head.weight" not in read_weights(tmp_path / "saved")


def test_half_precision_is_half_the_size_and_says_so(toy_model: Path, tmp_path: Path):
    weights = AutoModelForCausalLM.from_pretrained(toy_model).state_dict()
    save_model(weights, toy_model, tmp_path / "half", WeightFormat.FLOAT16)
    assert {value.dtype for value in read_weights(tmp_path / "half").values()} == {torch.float16}
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "float16"


def test_tokenizer_files_come_along(tmp_path: Path):
    source = write_toy_model(tmp_path / "source")
    (source / "tokenizer.json").write_text("{}")
    (source / "model.safetensors.index.json").write_text("{}")
    weights = AutoModelForCausalLM.from_pretrained(toy := write_toy_model(tmp_path / "toy")).state_dict()
    save_model(weights, source, tmp_path / "saved")
    assert toy.exists()
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == sorted(
        {path.name for path in toy.iterdir()} | {"tokenizer.json"}
    )


def test_saving_over_a_directory_replaces_it(toy_model: Path, tmp_path: Path):
    weights = AutoModelForCausalLM.from_pretrained(toy_model).state_dict()
    for number_format in (WeightFormat.FLOAT32, WeightFormat.FLOAT16):
        save_model(weights, toy_model, tmp_path / "saved", number_format)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert {value.dtype for value in read_weights(tmp_path / "saved").values()} == {torch.float16}


def break_off(target: Path) -> None:
    with replaced_directory(target) as partial:
        (partial / "new").write_text("new")
        raise RuntimeError


def test_a_write_that_breaks_off_leaves_what_was_there(tmp_path: Path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target/old").write_text("old")
    with pytest.raises(RuntimeError):
        break_off(tmp_path / "target")
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_what_a_dead_writer_left_is_removed(tmp_path: Path):
    (tmp_path / ".partial-dead").mkdir()
    remove_partial(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_cannot_be_written_are_a_training_error(toy_model: Path, tmp_path: Path):
    with pytest.raises(TrainingError, match="weights"):
        save_model({}, tmp_path / "nowhere", tmp_path / "saved")
