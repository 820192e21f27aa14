"""Rows in the form of HumanEvalPack become repositories whose tests fail and then pass."""

import json
from pathlib import Path

import pytest

from core.errors import BadData
from environments.base import Split
from environments.episode import Arena, run_episode
from environments.gold_policy import GoldPolicy
from environments.rows import BrokenRows
from environments.swe.environment import Swe, SweConfig
from environments.swe.rows import read_repairs
from tests.environments.sandboxes import any_backend

DECLARATION = """from typing import List

def size(word):
    return len(word)

def keep(words: List[str], part: str) -> List[str]:
"""
TEST = """def check(keep):
    assert keep(['abc', 'x'], 'b') == ['abc']
    assert size('ab') == math.sqrt(4)
    text = '''a
b'''
    assert keep([text], 'b') == [text]

check(keep)
"""
ROW = {
    "task_id": "Python/7",
    "prompt": "from typing import List\n\ndef keep(words: List[str], part: str) -> List[str]:\n    ...",
    "declaration": DECLARATION,
    "canonical_solution": "    return [word for word in words if part in word]\n",
    "buggy_solution": "    return [word for word in words if word in part]\n",
    "bug_type": "variable misuse",
    "test_setup": "import math",
    "test": TEST,
    "example_test": "def check(keep):\n    assert keep(['abc'], 'b') == ['abc']\n\ncheck(keep)",
    "entry_point": "keep",
    "instruction": "Keep the words that hold a part.",
    "docstring": "not used",
}


def written(folder: Path, *rows: dict) -> Path:
    (file := folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


async def test_a_row_is_repaired_by_its_canonical_solution_and_by_nothing_less(tmp_path: Path):
    config = SweConfig(train=written(tmp_path, ROW))
    async with Swe(config) as environment, any_backend() as backend:
        (task,) = environment.tasks(Split.TRAIN)
        assert task.id == "swe-Python-7"
        assert "Keep the words that hold a part." in task.messages[-1].content
        for script, total in ((environment.gold(task), 1.0), (("It is right as it is.",), 0.0)):
            trajectory = await run_episode(
                Arena(environment, GoldPolicy(lambda task, script=script: script), backend), task, "e"
            )
            assert trajectory.reward, trajectory.failure
            assert trajectory.reward.total == total


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"entry_point": "drop"}, "canonical_solution: defines size, keep, expected the entry point 'drop'"),
        ({"buggy_solution": "    return ["}, "buggy_solution: is no Python"),
        ({"test": "assert ("}, "test: is no Python"),
        ({"test": 3}, "test: Input should be a valid string"),
        ({"declaration": None}, "declaration: Field required"),
    ],
)
def test_a_broken_row_is_named_by_its_number_and_field(tmp_path: Path, change: dict, problem: str):
    file = written(tmp_path, ROW, {**ROW, **change})
    with pytest.raises(BadData) as raised:
        list(read_repairs(file))
    assert str(raised.value).startswith(f"{file}: row 2: {problem}")
    assert len(list(read_repairs(file, BrokenRows.SKIP))) == 1
