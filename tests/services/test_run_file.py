"""Sections of a run's file: what wins over what."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import Config
from core.errors import ConfigError
from services.run_file import NAT_SMALL, RunFile


class Part(Config):
    text: str = "default"
    number: int = 0


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_a_section_that_is_nowhere_has_its_defaults():
    assert RunFile().section("env", Part) == Part()


def test_a_flag_wins_over_set_over_a_variable_over_the_file(tmp_path: Path):
    path = written(tmp_path, "[env]\ntext = 'file'\nnumber = 1\n")
    assert RunFile(path).section("env", Part).text == "file"
    assert RunFile(path).section("env", Part, {"text": "variable"}).text == "variable"
    file = RunFile(path, ("env.text=set",))
    assert file.section("env", Part, {"text": "variable"}).text == "set"
    assert file.with_flags(env__text="flag").section("env", Part) == Part(text="flag", number=1)


def test_an_unknown_key_is_told_with_its_file_and_section(tmp_path: Path):
    path = written(tmp_path, "[env]\nnumbr = 1\n")
    with pytest.raises(ConfigError, match=r"run.toml: unknown key 'env.numbr'; did you mean 'number'"):
        RunFile(path).section("env", Part)


def test_what_other_sections_hold_is_not_looked_at(tmp_path: Path):
    path = written(tmp_path, "[trainer]\nnobody = 'knows'\n[env]\nnumber = 1\n")
    assert RunFile(path).section("env", Part).number == 1


@given(text=st.text(max_size=20))
def test_a_flag_reads_back_as_what_it_was(text: str):
    assert RunFile().with_flags(env__text=text).section("env", Part).text == text


def test_another_process_is_given_the_same_file(tmp_path: Path):
    path = written(tmp_path, "")
    assert RunFile(path, ("env.number=3",)).arguments() == ["--config", str(path), "--set=env.number=3"]


@pytest.mark.parametrize("path", sorted(NAT_SMALL.parent.glob("*.toml")), ids=lambda path: path.stem)
def test_a_shipped_file_is_one_that_every_service_takes(path: Path):
    from environments.policy import PolicyConfig
    from services.arena import RolloutsConfig
    from services.rollout_api.server import RolloutApiConfig
    from services.trainer_server.config import TrainerServerConfig

    file = RunFile(path)
    assert file.section("trainer", TrainerServerConfig).algorithm.name == "grpo"
    file.section("rollouts", RolloutsConfig)
    file.section("api", RolloutApiConfig)
    file.with_flags(policy__kind="server").section("policy", PolicyConfig)
