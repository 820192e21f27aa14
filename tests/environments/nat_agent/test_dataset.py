"""The dataset: splits that share nothing, and broken rows that are named."""

import json

import pytest

from core.errors import BadData
from environments.base import Split
from environments.nat_agent.conversation import Prompt, opening
from environments.nat_agent.dataset import (
    SHIPPED,
    BrokenRows,
    SplitSpec,
    leak,
    make_dataset,
    read_dataset,
    read_specs,
    row_of,
    write_rows,
    write_specs,
)
from environments.nat_agent.planner import plan_request
from environments.nat_agent.requests import Mix


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


def test_a_split_of_the_shipped_file_is_read_without_looking_into_the_other(rows, tmp_path):
    write_rows(tmp_path / "one.parquet", [rows[0], {**rows[-1], "plan": "{"}])
    assert len(read_dataset(tmp_path / "one.parquet", Split.TRAIN)) == 1


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


@pytest.mark.parametrize("mix", Mix)
def test_no_request_and_no_tool_of_the_validation_split_is_trained_on(tmp_path, mix: Mix):
    make_dataset(tmp_path / "d.parquet", train=120, held_out=60, seed=3, mix=mix)
    assert leak(read_specs(tmp_path / "d.parquet")) is None


def test_a_tool_in_both_splits_is_named(tmp_path):
    one, other = (
        plan_request("An agent: convert miles to feet."),
        plan_request("Another agent: convert miles to feet.", "other"),
    )
    with pytest.raises(BadData, match=r"both splits hold the tool .miles_to_feet: multiply value by 5280"):
        write_specs(tmp_path / "d.parquet", [SplitSpec(Split.TRAIN, one), SplitSpec(Split.HELD_OUT, other)])
    assert not (tmp_path / "d.parquet").exists()


def test_nothing_hidden_is_told():
    for spec in read_dataset(SHIPPED, Split.HELD_OUT)[:40]:
        told = "".join(message.content for prompt in Prompt for message in opening(spec.plan, prompt))
        hidden = [text for tool in spec.hidden for text in (tool.reference, *tool.mutants, *tool.variants)]
        bodies = [text.partition("        return ")[2].partition("\n")[0] for text in hidden]
        assert not any(body and body in told for body in [*hidden, *(body for body in bodies if "(" in body)])


def own(spec, **changes) -> str:
    """A user's own row as a line of JSON."""
    return json.dumps(
        {"plan": spec.plan.model_dump(mode="json"), "hidden": [one.model_dump() for one in spec.hidden], **changes}
    )


OWN = plan_request("An agent: convert miles to feet.")


def test_rows_of_ones_own_need_a_plan_and_its_hidden_part_only(tmp_path):
    (tmp_path / "own.jsonl").write_text(own(OWN))
    (found,) = read_dataset(tmp_path / "own.jsonl", Split.TRAIN)
    assert (found.plan, found.hidden, found.task_id[:4]) == (OWN.plan, OWN.hidden, "own-")


def test_rows_of_ones_own_may_hold_json_text(tmp_path):
    (tmp_path / "own.jsonl").write_text(json.dumps(row_of(OWN, Split.HELD_OUT)))
    assert read_dataset(tmp_path / "own.jsonl", Split.HELD_OUT) == [OWN]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "row 2: plan: is missing"),
        ("[]", "row 2: plan: is missing"),
        (own(OWN, hidden=None), "row 2: hidden: is missing"),
        (own(OWN, plan="{"), "row 2: plan: Invalid JSON"),
        (own(OWN, split="test"), "row 2: split: expected one of"),
        (own(OWN, task_id=""), "row 2: task_id: String should have at least 1 character"),
        (own(OWN, hidden=[{**OWN.hidden[0].model_dump(), "reference": "def ("}]), r"row 2: hidden\.0\.reference: is no Python"),
        (own(OWN, hidden=[{**OWN.hidden[0].model_dump(), "mutants": []}]), r"row 2: hidden\.0\.mutants"),
        (own(OWN), "row 2: task_id: 'own-.*' is that of row 1"),
    ],
)
def test_a_broken_row_of_ones_own_is_refused_by_number_and_field(tmp_path, line: str, problem: str):
    (tmp_path / "own.jsonl").write_text(f"{own(OWN)}\n{line}\n")
    with pytest.raises(BadData, match=problem):
        read_dataset(tmp_path / "own.jsonl", Split.TRAIN)
    assert len(read_dataset(tmp_path / "own.jsonl", Split.TRAIN, BrokenRows.SKIP)) == 1
