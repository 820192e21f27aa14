"""The root of this machine's own programs, and the recipe of the NAT runtime."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from backends.images import nat
from backends.images.host_root import digest, root_archive, system_binds, write_root
from core.errors import ConfigError, MissingRuntime

FOLDER = nat.INSTALL.parent


def archive(directory: Path) -> bytes:
    directory.mkdir()
    write_root(directory)
    return root_archive(directory)


def test_the_root_is_the_same_bytes_every_time(tmp_path: Path):
    first, second = archive(tmp_path / "a"), archive(tmp_path / "b")
    assert first == second
    assert len(digest(first)) == 16


def test_the_root_has_a_place_for_what_is_shown_in_it(tmp_path: Path):
    with tarfile.open(fileobj=io.BytesIO(archive(tmp_path / "a"))) as made:
        names = {f"/{entry.name}": entry for entry in made}
    directories = [
        inside for source, inside in system_binds().items() if Path(source).is_dir() and not inside.startswith("/etc/")
    ]
    assert "/usr" in directories
    assert all(names[inside].isdir() for inside in directories)
    assert not [entry.name for entry in names.values() if entry.uid or entry.mtime or entry.mode & 0o6000]
    assert "/etc/shadow" not in names


@pytest.mark.parametrize("recipe", ["Dockerfile", "apptainer.def"])
def test_recipes_install_the_same_requirements_in_the_same_way(recipe: str):
    text = (FOLDER / recipe).read_text()
    assert " ".join(nat.COMMAND) in text
    for source in (nat.REQUIREMENTS, nat.INSTALL):
        assert str(source.relative_to(FOLDER.parents[2])) in text


def test_a_root_without_a_registry_runs_the_recipe_too():
    options = nat.root_options(nat.REQUIREMENTS)
    assert options[-1] == f'--customize-hook=chroot "$1" {" ".join(nat.COMMAND)}'
    assert any(str(nat.REQUIREMENTS) in option for option in options)


def test_the_recipe_makes_an_environment_and_installs_into_it(tmp_path: Path):
    package = tmp_path / "nat"
    package.mkdir()
    (package / "pyproject.toml").write_text('[project]\nname = "nat"\nversion = "1"\n')
    (package / "nat.py").write_text("")
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(package)]
    subprocess.run(wheel, check=True)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"{tmp_path}/nat-1-py3-none-any.whl\n")
    environ = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "PIP_NO_INDEX": "1"}
    for _ in range(2):  # a second time changes nothing
        subprocess.run(["sh", str(nat.INSTALL), str(tmp_path / "made"), str(requirements)], check=True, env=environ)
    where = subprocess.check_output([tmp_path / "made" / "bin" / "python", "-c", "import nat; print(nat.__file__)"], text=True)
    assert Path(where).is_relative_to(tmp_path / "made")


def test_a_directory_that_holds_something_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises((ConfigError, MissingRuntime), match=r"is not empty|apt-get install mmdebstrap"):
        nat.make_root(tmp_path)


def test_a_missing_mmdebstrap_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingRuntime, match="apt-get install mmdebstrap"):
        nat.make_root(tmp_path / "root")


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "backends.images.nat", "root", str(tmp_path)],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(FOLDER.parents[2])},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "mmdebstrap" in done.stderr


def test_the_image_for_modal_is_described_without_an_account():
    modal = pytest.importorskip("modal", reason="modal: the package is not installed")
    assert isinstance(nat.modal_image(), modal.Image)
