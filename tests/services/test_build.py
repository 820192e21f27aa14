"""`natgym build`: what is written was tried on NAT, and nothing is written that was not."""

import json
import tomllib
from pathlib import Path

from tests.services.small_policy import natgym

REQUEST = "Build Ada an agent: convert miles to kilometers."


def test_an_agent_that_passes_every_check_is_written_and_can_be_installed(tmp_path: Path):
    out = tmp_path / "new" / "agent"
    done = natgym("build", REQUEST, "--policy", "gold", "--attempts", "1", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [told[name] for name in ("attempts", "tool_generation", "integration", "workflow")] == [1, 1.0, 1.0, 1.0]
    assert told["files"] == sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    project = tomllib.loads((out / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["nat.components"] == {"miles_to_kilometers": "nat_tools.miles_to_kilometers"}
    assert (out / "nat_tools" / "miles_to_kilometers.py").is_file()


def test_what_does_not_pass_is_not_written(tmp_path: Path, random_policy: Path):
    out = tmp_path / "agent"
    done = natgym(
        "build", REQUEST, "--policy", str(random_policy), "--attempts", "1", "--rollouts.limits.turns", "1", "--out", str(out)
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "none of 1 attempts passed all checks, and nothing was written" in done.stderr
    assert not out.exists()


def test_a_folder_that_holds_something_is_refused(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    done = natgym("build", REQUEST, "--out", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is not an empty folder" in done.stderr
