"""The configuration of a run: sections that know their keys by their name."""

from pathlib import Path

import pytest

from core.config import load_config
from core.errors import ConfigError, UnknownName
from trainer.algorithms.grpo import GRPOConfig
from trainer.config import TrainerConfig, make_checkpoints, make_learner
from trainer.engines.torch_engine import TorchEngineConfig


def load(*overrides: str) -> TrainerConfig:
    return load_config(TrainerConfig, None, ["model=m", *overrides])


def test_defaults_are_grpo_on_torch():
    config = load()
    assert isinstance(config.algorithm, GRPOConfig)
    assert isinstance(config.engine, TorchEngineConfig)


def test_a_section_takes_the_keys_of_its_algorithm():
    assert load("algorithm.lr=1e-3", "algorithm.dual_clip=4").algorithm == GRPOConfig(lr=1e-3, dual_clip=4)


def test_a_config_survives_its_own_dump():
    config = load("algorithm.lr=1e-3", "engine.threads=2")
    assert TrainerConfig.model_validate(config.model_dump()) == config


def test_a_wrong_key_of_a_section_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown key 'clip_lo'; did you mean 'clip_low'"):
        load("algorithm.clip_lo=0.1")


def test_an_unknown_algorithm_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match="no algorithm 'grop'; did you mean 'grpo'"):
        load("algorithm.name=grop")


def test_a_section_that_is_no_section_is_refused():
    with pytest.raises(ConfigError, match="engine: expected a section"):
        load("engine=torch")


def test_a_config_makes_what_it_names(toy_model: Path, tmp_path: Path):
    config = TrainerConfig(model=toy_model, out=tmp_path)
    assert make_learner(config).engine.vocabulary == 24
    assert make_checkpoints(config).newest_step() is None
