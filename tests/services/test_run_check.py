"""Sections that contradict each other are told before anything is started."""

from pathlib import Path

import pytest

from core.errors import ConfigError
from services.run_check import MAX_LENGTH, check_agreement
from services.run_file import NAT_SMALL, RunFile, Sections
from tests.services.small_policy import natgym
from trainer.inference.local_engine import LocalEngineConfig


@pytest.mark.parametrize("path", sorted(NAT_SMALL.parent.glob("*.toml")), ids=lambda path: path.stem)
def test_what_is_shipped_agrees(path: Path):
    check_agreement(RunFile(path).sections())


def test_logprobs_of_two_distributions_are_refused():
    with pytest.raises(ConfigError, match=r"policy\.temperature is 0\.7 and trainer\.engine\.temperature 1: "):
        check_agreement(Sections(policy={"temperature": 0.7}))
    check_agreement(Sections(policy={"temperature": 0.7}, trainer={"engine": {"temperature": "0.7"}}))


def test_conversations_longer_than_the_sampler_takes_are_refused():
    with pytest.raises(ConfigError, match=r"policy\.max_tokens is 8192 and trainer\.inference\.max_length 4096: "):
        check_agreement(Sections(policy={"max_tokens": 8192}))
    check_agreement(Sections(policy={"max_tokens": 8192}, trainer={"inference": {"max_length": 8192}}))
    check_agreement(Sections(policy={"max_tokens": 8192}, trainer={"engine": {"name": "tinker"}}))


def test_the_length_that_is_assumed_is_the_samplers():
    assert LocalEngineConfig().max_length == MAX_LENGTH


def test_a_run_is_not_started_with_sections_that_contradict_each_other(tmp_path: Path):
    done = natgym("up", "--set", "policy.temperature=0.5", "--out", str(tmp_path / "run"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "set both alike" in done.stderr
    assert not (tmp_path / "run").exists()
