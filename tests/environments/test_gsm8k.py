"""Generated problems are right and never shared between splits; files of GSM8K are read as they are."""

import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from core.errors import BadData
from environments.base import Split
from environments.gsm8k import Gsm8k, Gsm8kConfig
from environments.gsm8k_problems import HELD_OUT, TRAIN, Template, problems
from environments.rows import BrokenRows

STEP = re.compile(r"([\d+*/ -]*\d) = (\d+)")
ROWS = [
    {"question": "How many are 2 and 2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"},
    {"question": "And 999 and 1?", "answer": "999 + 1 = 1000\n#### 1,000"},
]


@pytest.mark.parametrize("templates", [TRAIN, HELD_OUT], ids=["train", "held out"])
def test_every_step_of_a_worked_answer_holds_and_it_ends_in_the_result(templates: Mapping[str, Template]):
    for problem in problems(templates, 200):
        steps = [found for line in problem.answer.splitlines()[:-1] for found in STEP.findall(line)]
        assert len(steps) >= 2, problem
        assert [eval(left) for left, _ in steps] == [int(right) for _, right in steps], problem
        assert int(problem.answer.rpartition("#### ")[2]) >= 0, problem


def test_a_worked_answer_uses_the_numbers_of_its_question():
    for problem in problems({**TRAIN, **HELD_OUT}, 100):
        asked = set(re.findall(r"\d+", problem.question))
        first_step = re.findall(r"\d+", problem.answer.splitlines()[0])
        assert asked & set(first_step), problem


async def test_the_same_problems_are_made_every_time_and_the_splits_share_no_template():
    async with Gsm8k() as first, Gsm8k() as second:
        train, held_out = (first.tasks(split) for split in (Split.TRAIN, Split.HELD_OUT))
        assert train == second.tasks(Split.TRAIN)
    ids = [task.id for task in (*train, *held_out)]
    assert (len(train), len(held_out), len(set(ids))) == (400, 60, 460)
    assert not TRAIN.keys() & HELD_OUT.keys()


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
async def test_a_file_of_gsm8k_is_read_in_place_of_what_is_generated(tmp_path: Path, ending: str):
    file = tmp_path / f"train.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    else:
        file.write_text('{"question": "How many are 2 and 2?", "answer": "#### 4", "more": 1}\n')
    async with Gsm8k(Gsm8kConfig(train=file)) as environment:
        tasks = environment.tasks(Split.TRAIN)
        assert tasks[0].messages[-1].content == "How many are 2 and 2?"
        assert environment.gold(tasks[0])[-1].endswith("\\boxed{4}")
        assert len(environment.tasks(Split.HELD_OUT)) == 60


async def test_a_row_without_a_number_is_told_or_skipped(tmp_path: Path):
    (file := tmp_path / "train.jsonl").write_text(
        '{"question": "a?", "answer": "#### 1"}\n{"question": "b?", "answer": "four"}\n'
    )
    async with Gsm8k(Gsm8kConfig(train=file)) as environment:
        with pytest.raises(BadData, match=r"row 2: answer: expected a text with the answer behind ####, found 'four'"):
            environment.tasks(Split.TRAIN)
    async with Gsm8k(Gsm8kConfig(train=file, broken_rows=BrokenRows.SKIP)) as environment:
        assert len(environment.tasks(Split.TRAIN)) == 1
