"""Settings as flags of their own: what stands on the command line, and what a section reads from it."""

from pathlib import Path

import pytest

from core.config import Config
from core.errors import ConfigError
from environments.policy import PolicyConfig, PolicyKind
from services.openai_section import served_by, with_openai
from services.run_file import RunFile
from services.setting_flags import as_settings
from services.trainer_server.config import TrainerServerConfig


class Part(Config):
    number: float = 0
    switch: bool = False
    names: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    text: str = ""


def part_of(line: str) -> Part:
    return RunFile(None, tuple(one.removeprefix("--set=") for one in as_settings(line.split()))).section("env", Part)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--env.number -3", Part(number=-3)),
        ("--env.number=-1.5e-3", Part(number=-0.0015)),
        ("--env.switch", Part(switch=True)),
        ("--env.switch --env.number 2", Part(switch=True, number=2)),
        ("--env.switch True", Part(switch=True)),
        ("--env.switch false", Part()),
        ("--env.names [a,b]", Part(names=("a", "b"))),
        ('--env.names ["a","b"]', Part(names=("a", "b"))),
        ("--env.numbers [-1,2]", Part(numbers=(-1, 2))),
        ("--env.numbers []", Part()),
        ("--env.text a=b", Part(text="a=b")),
        ("--env.text=", Part()),
    ],
)
def test_a_flag_is_read_as_what_it_looks_like(line: str, expected: Part):
    assert part_of(line) == expected


def test_other_arguments_stay_as_they_are():
    line = ["gsm8k", "--out", "a.b", "-v", "--env.x", "1", "--json", "--", "--env.x"]
    assert as_settings(line) == ["gsm8k", "--out", "a.b", "-v", "--set=env.x=1", "--json", "--", "--env.x"]


SHARED = """
env: {number: 2}
openai:
  - {base_url: "http://127.0.0.1:9001/v1", model_name: qwen, api_key: x}
policy: {temperature: 0.5, model: other}
trainer: {port: 0}
"""


def test_one_file_serves_the_environment_the_openai_server_and_the_trainer(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text(SHARED)
    file = with_openai(RunFile(path))
    policy = file.section("policy", PolicyConfig)
    assert (policy.kind, policy.model, policy.base_url) == (PolicyKind.SERVER, "qwen", "http://127.0.0.1:9001/v1")
    assert policy.temperature == 0.5
    assert served_by(file) == "http://127.0.0.1:9001/v1"
    assert file.section("env", Part).number == 2
    assert file.section("trainer", TrainerServerConfig).port == 0


def test_what_is_set_on_the_command_line_wins_over_the_section():
    file = RunFile(None, ("openai.base_url=http://a", "openai.temperature=0.1", "policy.temperature=0.9", "policy.kind=server"))
    policy = with_openai(file).section("policy", PolicyConfig)
    assert policy.temperature == 0.9


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("openai.base_ulr=http://a", "did you mean 'base_url'"),
        ("openai.temperature=1", "base_url: is missing"),
        ("openai.base_url=here", "base_url"),
        ('openai=[{"base_url": "http://a"}, {"base_url": "http://b"}]', "expected one server, found a list of 2"),
        ('openai={"base_url": "http://a", "api_key": "sk-secret"}', "NATGYM_OPENAI_API_KEY"),
    ],
)
def test_a_mistake_in_the_section_is_told(setting: str, told: str):
    with pytest.raises(ConfigError, match=told) as caught:
        with_openai(RunFile(None, (setting,)))
    assert "sk-secret" not in str(caught.value)
