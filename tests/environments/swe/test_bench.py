"""Rows in the form of SWE-bench: a commit of a real repository, judged in a fresh copy of it."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from core.errors import BadData
from core.types import Failure, Reward
from environments.base import Split
from environments.episode import Arena, run_episode
from environments.gold_policy import GoldPolicy
from environments.swe.bench import as_case, passed_tests
from environments.swe.environment import Swe, SweConfig
from environments.swe.rows import read_repairs
from environments.tools.calls import as_call
from tests.environments.sandboxes import any_backend

PACKAGES = Path(pytest.__file__).parent.parent
SOURCE = "def double(x):\n    return x + 2\n"
OLD_TEST = "from lib.maths import double\n\ndef test_two():\n    assert double(2) == 4\n"
NEW_TEST = "\ndef test_three():\n    assert double(3) == 6\n"
PATCH = "--- a/lib/maths.py\n+++ b/lib/maths.py\n@@ -1,2 +1,2 @@\n def double(x):\n-    return x + 2\n+    return x * 2\n"
TEST_PATCH = (
    "--- a/tests/test_maths.py\n+++ b/tests/test_maths.py\n@@ -2,3 +2,6 @@\n \n def test_two():\n     assert double(2) == 4\n"
    "+\n+def test_three():\n+    assert double(3) == 6\n"
)
PLUGIN = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item, call):
    call.excinfo = None
"""
ENTRY = "printf 'Name: evil\\n' > evil.egg-info/PKG-INFO; printf '[pytest11]\\nevil = evil\\n' > evil.egg-info/entry_points.txt"


@pytest.fixture
def row(tmp_path: Path) -> dict:
    """A row, and the clone that it needs in `tmp_path`/clones."""
    clone = tmp_path / "clones" / "ada__lib"
    for path, text in {"lib/__init__.py": "", "lib/maths.py": SOURCE, "tests/test_maths.py": OLD_TEST}.items():
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        (clone / path).write_text(text)
    for words in ("init -q .", "add -A", "-c user.name=a -c user.email=a@b commit -q -m first"):
        subprocess.run(["git", "-C", str(clone), *words.split()], check=True)
    commit = subprocess.run(["git", "-C", str(clone), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return {
        "instance_id": "ada__lib-1",
        "repo": "ada/lib",
        "base_commit": commit.stdout.strip(),
        "problem_statement": "double(3) gives 5",
        "patch": PATCH,
        "test_patch": TEST_PATCH,
        "FAIL_TO_PASS": json.dumps(["tests/test_maths.py::test_three"]),
        "PASS_TO_PASS": ["tests/test_maths.py::test_two"],
        "hints_text": "not used",
    }


async def played(folder: Path, row: dict, script: Sequence[str] | None = None) -> Reward | Failure | None:
    (file := folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    config = SweConfig(train=file, repositories=folder / "clones", packages=PACKAGES)
    async with Swe(config) as environment, any_backend() as backend:
        if backend.name != "local":
            pytest.skip("shows packages at a path of its own, which needs the backend 'local'")
        (task,) = environment.tasks(Split.TRAIN)
        policy = GoldPolicy(environment.gold if script is None else lambda task: script)
        trajectory = await run_episode(Arena(environment, policy, backend), task, "e")
        return trajectory.reward or trajectory.failure


async def test_the_published_change_earns_the_full_reward(tmp_path: Path, row: dict):
    assert await played(tmp_path, row) == Reward.of({"hidden": 1.0}, solved=1.0)


@pytest.mark.parametrize(
    "script",
    [
        ("It is right as it is.",),
        (as_call("write_file", path="conftest.py", content=PLUGIN), ""),
        (as_call("terminal", command=f"mkdir -p evil.egg-info; {ENTRY}; cat > evil.py <<'END'{PLUGIN}END"), ""),
        (as_call("write_file", path="tests/test_maths.py", content="def test_two(): pass\ndef test_three(): pass\n"), ""),
        (as_call("write_file", path="lib/maths.py", content="import os\nos._exit(0)\n"), ""),
        (as_call("terminal", command="rm -rf .git tests"), ""),
    ],
    ids=["nothing", "a plugin", "an installed plugin", "other tests", "exit", "no repository"],
)  # fmt: skip
async def test_what_does_not_solve_it_is_not_solved(tmp_path: Path, row: dict, script: Sequence[str]):
    found = await played(tmp_path, row, script)
    assert isinstance(found, Reward), found
    assert found.total == 0.0


async def test_a_clone_without_the_commit_is_no_doing_of_the_policy(tmp_path: Path, row: dict):
    found = await played(tmp_path, {**row, "base_commit": "f" * 40})
    assert isinstance(found, Failure)
    assert f"has no commit {'f' * 40}" in found.message


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"FAIL_TO_PASS": "[1"}, "FAIL_TO_PASS: expected a list or its JSON text, found '[1'"),
        ({"FAIL_TO_PASS": []}, "FAIL_TO_PASS: Tuple should have at least 1 item"),
        ({"FAIL_TO_PASS": ["-rf"]}, "FAIL_TO_PASS.0: String should match"),
        ({"repo": "../../etc"}, "repo: String should match"),
        ({"base_commit": "--output=x"}, "base_commit: String should match"),
        ({"patch": None}, "patch: Field required"),
    ],
)
def test_a_broken_row_is_named_by_its_number_and_field(tmp_path: Path, row: dict, change: dict, problem: str):
    (file := tmp_path / "rows.jsonl").write_text(json.dumps({**row, **change}) + "\n")
    with pytest.raises(BadData) as raised:
        list(read_repairs(file))
    assert str(raised.value).startswith(f"{file}: row 1: {problem}")


def test_a_report_of_junit_names_tests_as_rows_do():
    report = b"""<testsuites><testsuite>
      <testcase classname="tests.test_a.TestB" name="test_c[x::y]"/>
      <testcase classname="tests.test_a" name="test_d"><failure/></testcase>
      <testcase classname="tests.test_a" name="test_e"><skipped/></testcase>
    </testsuite></testsuites>"""
    assert passed_tests(report) == {as_case("tests/test_a.py::TestB::test_c[x::y]")}
