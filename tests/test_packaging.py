"""What a user gets: a wheel with every file of the packages, an interpreter that fits, settings that exist."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest

from core.settings import PREFIX, Settings, read_settings

ROOT = Path(__file__).parent.parent
PACKAGES = ("core", "tool_call_parsers", "backends", "environments", "trainer", "services")
OTHER_INTERPRETER = ROOT / "environments/nat_agent/runtime"
DISTRIBUTION = {
    "yaml": "pyyaml",
    "pydantic_core": "pydantic",
    "math_verify": "math-verify",
    "typing_extensions": "typing-extensions",
}
COMMENTED = re.compile(r"^# (NATGYM_\w+=.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a wheel that was built from a copy of the sources."""
    source = tmp_path_factory.mktemp("source")
    for package in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", source / "dist", source], check=True, cwd=source)
    (built,) = (source / "dist").glob("natgym-*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize("package", PACKAGES)
def test_the_wheel_holds_every_file_of_the_package(wheel: set[str], package: str):
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*") if path.is_file()}
    assert {file for file in files if "__pycache__" not in file} - wheel == set()


def test_the_wheel_holds_nothing_but_the_packages(wheel: set[str]):
    tops = {name.partition("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def imported(file: Path) -> set[str]:
    """Top-level names of what a file imports, inside functions too."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {
        name.partition(".")[0] for name in plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    }


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    names = {re.split(r"[\[<>=]", line)[0] for line in declared}
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if OTHER_INTERPRETER not in path.parents]
    found = set().union(*map(imported, files)) - sys.stdlib_module_names - set(PACKAGES) - {""}
    assert {DISTRIBUTION.get(name, name) for name in found} - names == set()


def find_python(wanted: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHON": wanted}
    return subprocess.run([ROOT / ".ci/python"], env=environ, capture_output=True, text=True)


def test_set_up_takes_an_interpreter_that_fits():
    assert Path(find_python(f"no-such-python {sys.executable}").stdout.strip()).samefile(sys.executable)


def test_set_up_says_in_one_line_that_no_interpreter_fits():
    done = find_python("no-such-python")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "no Python 3.11, 3.12 or 3.13 found (tried no-such-python)" in done.stderr


def test_the_example_of_the_settings_lists_them_all(tmp_path: Path):
    lines = COMMENTED.findall((ROOT / ".env.example").read_text())
    (tmp_path / ".env").write_text("\n".join(lines))
    assert read_settings({}, tmp_path / ".env") == Settings()
    assert {line.partition("=")[0] for line in lines} == {PREFIX + name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("file", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_every_requirement_is_pinned_and_names_no_address(file: Path):
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", line)] == []
