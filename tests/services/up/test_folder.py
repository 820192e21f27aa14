"""The folder of a run: begun once, resumed with what it was begun with."""

from pathlib import Path

import pytest

from core.errors import ConfigError
from services.up.folder import RunFolder, UpOptions, next_folder


def test_a_run_is_resumed_with_what_it_was_begun_with(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    folder.begin(UpOptions(steps=3, seed=7, overrides=("trainer.algorithm.lr=0.1",)))
    assert folder.resumed({"steps": 5}) == UpOptions(steps=5, seed=7, overrides=("trainer.algorithm.lr=0.1",))
    assert folder.resumed({}).steps == 5


def test_a_run_that_has_come_to_something_is_not_begun_anew(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    folder.begin(UpOptions())
    folder.groups.write_text("")
    with pytest.raises(ConfigError, match=r"holds a run already: go on with it by --resume"):
        folder.begin(UpOptions())


def test_a_run_that_never_began_may_be_begun_again(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    folder.begin(UpOptions(steps=3))
    folder.begin(UpOptions(steps=4))
    assert folder.resumed({}).steps == 4


def test_there_is_nothing_to_resume_in_an_empty_folder(tmp_path: Path):
    with pytest.raises(ConfigError, match="holds no run to resume"):
        RunFolder(tmp_path).resumed({})


def test_folders_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert next_folder() == Path("runs/0001")
    Path("runs/0041").mkdir(parents=True)
    assert next_folder() == Path("runs/0042")
