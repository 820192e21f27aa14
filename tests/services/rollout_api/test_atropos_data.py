"""Whatever bytes come: they are refused, or what is kept of them is a whole group of finite numbers."""

import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.rollout_api.atropos_data import Checked, check_group, check_groups
from services.rollout_api.base import Parcel
from services.rollout_api.compression import body_of, seal
from services.rollout_api.refusals import Invalid

SEPARATORS = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n\t", " : ")])
whole = st.integers(-(2**63), 2**63 - 1)
real = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**6), 10**6)


def assert_whole(checked: Checked) -> dict:
    """What a trainer relies on; the group as it reads it."""
    found = json.loads(checked.body)
    lengths = [len(row) for row in found["tokens"]]
    assert (checked.sequences, checked.tokens) == (len(lengths), sum(lengths))
    assert min(lengths) > 0
    assert [len(row) for row in found["masks"]] == lengths
    assert len(found["scores"]) == len(lengths)
    assert all(type(token) is int and -(2**63) <= token < 2**63 for row in found["tokens"] + found["masks"] for token in row)
    numbers = [*found["scores"]]
    for name in ("inference_logprobs", "ref_logprobs"):
        rows = found[name] or []
        assert [len(row) for row in rows] in ([], lengths)
        numbers += [number for row in rows for number in row]
    assert all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
    return found


@given(st.lists(st.lists(st.tuples(whole, whole, real), min_size=1, max_size=5), min_size=1, max_size=4), SEPARATORS)
@example([[(1, -100, 1e308), (10**18, 10**18, -5e-324)]], (",", ":"))
@example([[(2**63 - 1, -(2**63), 1e-300), (0, 0, 123456789.123456789)], [(1, 1, 0)]], (", ", ": "))
def test_a_whole_group_is_kept_to_the_last_digit(rows: list[list[tuple]], separators: tuple[str, str]):
    columns = [[[entry[at] for entry in row] for row in rows] for at in range(3)]
    group = {"tokens": columns[0], "masks": columns[1], "inference_logprobs": columns[2], "scores": [0.5] * len(rows)}
    found = assert_whole(check_group(json.dumps(group, separators=separators).encode()))
    assert [found[name] for name in group] == list(group.values())


GROUP = {
    "tokens": [[1, 22, 333], [4, 5]],
    "masks": [[-100, 22, 333], [-100, 5]],
    "scores": [1.0, -0.5],
    "inference_logprobs": [[1.0, -0.5, -2.5e-05], [1, -1.25]],
    "ref_logprobs": [[0.0, -0.5, -1e-7], [1.0, -1.25]],
    "env_id": 3,
}
BODY = json.dumps(GROUP).encode()
ALPHABET = st.sampled_from([bytes([one]) for one in b'0129-+.eE,[]{}":nul \n\xff'] + [b"1e999", b"NaN", b"null", b"],["])


@settings(max_examples=1000)
@given(st.lists(st.tuples(st.integers(0, len(BODY) - 1), st.integers(0, 3), ALPHABET), min_size=1, max_size=4))
def test_damaged_bytes_are_refused_or_still_whole(changes: list[tuple[int, int, bytes]]):
    body = BODY
    for at, removed, put in changes:
        body = body[:at] + put + body[at + removed :]
    try:
        checked = check_group(body)
    except Invalid:
        return
    assert_whole(checked)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"[" * 100_000, b'{"tokens":' * 50_000, b"\xff", b'{"tokens":[[1]]'])
def test_what_is_no_group_is_refused(body: bytes):
    with pytest.raises(Invalid):
        check_group(body)


@pytest.mark.parametrize("group", [GROUP, {**GROUP, "inference_logprobs": None}, {**GROUP, "inference_logprobs": []}])
def test_what_is_compressed_in_two_parts_comes_out_whole(group: dict):
    checked = check_group(json.dumps(group).encode())
    parcel = Parcel("a", "env", 0, 2, 0, checked.body, 0.0, dialect="atropos", digits_at=checked.digits_at)
    assert body_of(seal(parcel).frame) == checked.body
    rest = checked.body[checked.digits_at :] if checked.digits_at else b""
    assert rest.startswith(b',"inference_logprobs":[') == (group["inference_logprobs"] is not None)


def test_a_list_names_the_group_that_is_wrong():
    with pytest.raises(Invalid, match=r"^group 1: masks: row 1 has 1 entries, the sequence has 2 tokens$"):
        check_groups(json.dumps([GROUP, GROUP | {"masks": [[1, 2, 3], [1]]}]).encode())
