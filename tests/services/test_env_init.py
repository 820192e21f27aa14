"""An environment begun by `natgym env init` works as it is, in its folder and as an installed package."""

import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import UserError
from core.settings import child_environ
from environments.base import ENVIRONMENTS
from services.commands.env import begin, class_name
from tests.services.small_policy import ROOT, natgym


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("begun")
    done = natgym("env", "init", "dice_2", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "dice_2"


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=child_environ(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=300
    )


def test_its_own_tests_pass(begun: Path):
    done = python(begun, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis")
    assert (done.returncode, "2 passed" in done.stdout) == (0, True), done.stdout + done.stderr


def test_it_is_a_program_with_the_verbs_of_every_environment(begun: Path, tmp_path: Path):
    out = tmp_path / "rows.jsonl"
    done = python(begun, "-m", "dice_2", "process", "--out", str(out), "--groups", "2", "--group-size", "2")
    assert done.returncode == 0, done.stderr
    assert len(out.read_text().splitlines()) == 4


def test_an_installed_package_is_found_by_the_name_of_its_entry_point(begun: Path, monkeypatch: pytest.MonkeyPatch):
    info = begun / "dice_2-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dice_2\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[natgym.environments]\ndice_2 = dice_2:Dice2\n")
    monkeypatch.syspath_prepend(begun)
    assert ENVIRONMENTS.load("dice_2")().name == "dice_2"
    sys.modules.pop("dice_2")


@pytest.mark.parametrize("name", ["", "3d", "a-b", "class", "_", "naïve", "../up"])
def test_a_name_that_is_none_of_python_is_refused(name: str, tmp_path: Path):
    with pytest.raises(UserError, match="expected a name"):
        begin(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(UserError, match="not an empty folder"):
        begin("dice", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_class_is_called_as_its_module():
    assert class_name("my_env_2") == "MyEnv2"
