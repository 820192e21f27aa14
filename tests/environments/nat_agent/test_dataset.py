"""The dataset: splits that share nothing, and broken rows that are named."""

import json

import pytest

from core.errors import BadData
from environments.base import Split
from environments.nat_agent.dataset import SHIPPED, BrokenRows, make_dataset, read_dataset, write_rows


@pytest.fixture
def rows(tmp_path):
    import pyarrow.parquet

    make_dataset(tmp_path / "specs.parquet", train=3, held_out=2, seed=5)
    return pyarrow.parquet.read_table(tmp_path / "specs.parquet").to_pylist()


def test_shipped_splits_are_large_and_share_no_request_and_no_tool():
    train, held_out = read_dataset(SHIPPED, Split.TRAIN), read_dataset(SHIPPED, Split.HELD_OUT)
    assert len(train) >= 500
    assert len(held_out) >= 100
    assert not {spec.plan.user_request for spec in train} & {spec.plan.user_request for spec in held_out}
    names = [{tool.name for spec in split for tool in spec.plan.custom_tools} for split in (train, held_out)]
    assert not names[0] & names[1]
    purposes = [{(tool.name, tool.purpose) for spec in split for tool in spec.plan.custom_tools} for split in (train, held_out)]
    assert not purposes[0] & purposes[1]


def test_shipped_file_is_what_its_command_makes(tmp_path):
    make_dataset(tmp_path / "again.parquet", train=600, held_out=150, seed=0)
    for split in Split:
        assert read_dataset(tmp_path / "again.parquet", split) == read_dataset(SHIPPED, split)


def test_a_broken_row_is_refused_by_number_and_field(rows, tmp_path):
    plan = json.loads(rows[1]["plan"])
    del plan["custom_tools"]
    write_rows(tmp_path / "broken.parquet", [rows[0], {**rows[1], "plan": json.dumps(plan)}, *rows[2:]])
    with pytest.raises(BadData, match=r"broken\.parquet: row 2: plan\.custom_tools: Field required"):
        read_dataset(tmp_path / "broken.parquet", Split.TRAIN)


def test_a_broken_row_is_left_out_when_asked(rows, tmp_path):
    write_rows(tmp_path / "broken.parquet", [rows[0], {**rows[1], "hidden": "{"}, *rows[2:]])
    found = read_dataset(tmp_path / "broken.parquet", Split.TRAIN, BrokenRows.SKIP)
    assert [spec.task_id for spec in found] == [rows[0]["task_id"], rows[2]["task_id"]]


def test_an_unknown_split_is_named(rows, tmp_path):
    write_rows(tmp_path / "broken.parquet", [{**rows[0], "split": "test"}])
    with pytest.raises(BadData, match="row 1: split: expected one of train, held_out, found 'test'"):
        read_dataset(tmp_path / "broken.parquet", Split.TRAIN)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(BadData, match="natgym dataset nat_agent"):
        read_dataset(tmp_path / "none.parquet", Split.TRAIN)


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(BadData, match="not a parquet file"):
        read_dataset(tmp_path / "text.parquet", Split.TRAIN)
