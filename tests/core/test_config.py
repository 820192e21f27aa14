"""Configuration: three formats and flags in, one frozen typed value or one line that says what is wrong."""

from pathlib import Path
from typing import Self

import pytest
from pydantic import Field, ValidationError, model_validator

from core.config import Config, load_config, read_file
from core.errors import ConfigError


class Optimiser(Config):
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)


class Range(Config):
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class Run(Config):
    name: str
    steps: int = Field(default=10, gt=0)
    optimiser: Optimiser = Optimiser()
    evaluation: Optimiser | None = None


FILES = {
    "run.toml": 'name = "a"\nsteps = 5\n[optimiser]\nlr = 1e-5\n',
    "run.yaml": "name: a\nsteps: 5\noptimiser:\n  lr: 1e-5\n",
    "run.yml": "name: a\nsteps: 5\noptimiser: {lr: 0.00001}\n",
    "run.json": '{"name": "a", "steps": 5, "optimiser": {"lr": 1e-5}}',
}


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_config(tmp_path: Path, name: str):
    assert load_config(Run, written(tmp_path, name, FILES[name])) == Run(name="a", steps=5, optimiser=Optimiser(lr=1e-5))


def test_an_empty_yaml_file_is_an_empty_mapping(tmp_path: Path):
    assert read_file(written(tmp_path, "run.yaml", "# nothing yet\n")) == {}


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Run(name="a").steps = 3


def test_a_flag_wins_over_the_file(tmp_path: Path):
    path = written(tmp_path, "run.toml", FILES["run.toml"])
    assert load_config(Run, path, ["optimiser.lr=0.5"]).optimiser.lr == 0.5


def test_a_later_flag_wins_over_an_earlier_one():
    assert load_config(Run, overrides=["name=a", "steps=1", "steps=2"]).steps == 2


def test_a_flag_keeps_its_neighbours(tmp_path: Path):
    path = written(tmp_path, "run.toml", FILES["run.toml"])
    assert load_config(Run, path, ["optimiser.betas=[0.5, 0.6]"]).optimiser == Optimiser(lr=1e-5, betas=(0.5, 0.6))


def test_a_flag_that_is_not_json_is_text():
    assert load_config(Run, overrides=["name=a b=c"]).name == "a b=c"


@pytest.mark.parametrize("flag", ["steps", "=3", " =3"])
def test_a_flag_without_key_or_value_is_refused(flag: str):
    with pytest.raises(ConfigError, match="expected key=value"):
        load_config(Run, overrides=["name=a", flag])


def test_a_flag_into_something_that_is_no_section_is_refused():
    with pytest.raises(ConfigError, match="'name' holds 'a', not a section"):
        load_config(Run, overrides=["name=a", "name.first=b"])


def test_an_unknown_key_is_answered_with_the_nearest_and_all_known_ones():
    with pytest.raises(ConfigError) as caught:
        load_config(Run, overrides=["name=a", "stepz=3"])
    assert str(caught.value) == (
        "configuration: unknown key 'stepz'; did you mean 'steps'? known: evaluation, name, optimiser, steps"
    )


@pytest.mark.parametrize("section", ["optimiser", "evaluation"])
def test_an_unknown_key_of_a_section_is_answered_from_that_section(section: str):
    with pytest.raises(ConfigError, match=rf"unknown key '{section}\.lrr'; did you mean 'lr'\? known: betas, lr"):
        load_config(Run, overrides=["name=a", f"{section}.lrr=3"])


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match=r"^configuration: name: is required and missing$"):
        load_config(Run)


def test_a_wrong_value_is_shown():
    with pytest.raises(ConfigError, match=r"steps: Input should be greater than 0, found '-1'"):
        load_config(Run, overrides=["name=a", "steps=-1"])


def test_a_broken_rule_of_a_config_is_told_in_its_own_words():
    with pytest.raises(ConfigError, match=r"^configuration: Range: low 3 is above high 1$"):
        load_config(Range, overrides=["low=3"])


def test_a_long_wrong_value_is_cut():
    with pytest.raises(ConfigError) as caught:
        load_config(Run, overrides=["name=a", f"steps={'x' * 5000}"])
    assert len(str(caught.value)) < 300


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"absent\.toml: No such file"):
        load_config(Run, tmp_path / "absent.toml")


BROKEN = {
    "run.toml": b"name = ",
    "run.yaml": b"name: [",
    "run.json": b"{",
    "run.yml": b"\xff\xfe",
    "deep.json": b"[" * 100_000,
    "list.json": b"[1]",
    "run.ini": b"name=a",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_line_with_its_name(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(BROKEN[name])
    with pytest.raises(ConfigError, match=rf"{name}: .") as caught:
        load_config(Run, path)
    assert "\n" not in str(caught.value)


def test_a_yaml_file_cannot_make_objects(tmp_path: Path):
    path = written(tmp_path, "run.yaml", "name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load_config(Run, path)
