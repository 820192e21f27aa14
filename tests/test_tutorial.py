"""docs/write-an-environment.md: its files are written, its commands run, and they print what the page says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet

from core.settings import child_environ

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "write-an-environment.md"
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAMS = {"natgym": [sys.executable, "-m", "services.cli"], "python": [sys.executable]}


class Command(NamedTuple):
    """One line of a console, and texts that it has to print."""

    line: str
    printed: list[str]


def commands(console: str) -> list[Command]:
    found: list[Command] = []
    for line in console.splitlines():
        if line.startswith("$ "):
            found.append(Command(line.removeprefix("$ "), []))
        else:
            found[-1].printed.append(line)
    return found


def test_the_tutorial_does_what_it_says(tmp_path: Path):
    played = 0
    for language, file, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if file:
            (tmp_path / file).write_text(text, encoding="utf-8")
        for line, printed in commands(text) if language == "console" else []:
            program, *arguments = shlex.split(line)
            environ = child_environ(PYTHONPATH=str(ROOT))
            command = [*PROGRAMS[program], *arguments]
            done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            assert [one for one in printed if one not in done.stdout] == [], f"{line}\n{done.stdout}"
            played += 1
    assert played == 7
    assert pyarrow.parquet.read_table(tmp_path / "best.parquet").num_rows == 3
    assert {path.name for path in (tmp_path / "after").iterdir()} == {
        "run.json",
        "samples.jsonl",
        "metrics.json",
        "report.html",
    }
