"""What clients send compressed: whole, and never more work or memory than a body of its size may cost."""

import gzip
import tracemalloc
from random import Random

import pytest
import zstandard

from services.rollout_api.compression import MAX_MEMBERS, inflated
from services.rollout_api.refusals import BodyTooLarge, Refusal

MIB = 1 << 20
TEXT = Random(0).randbytes(100_000)


def test_members_of_gzip_behind_each_other_are_one_body():
    body = b"".join(gzip.compress(TEXT[start : start + 7]) for start in range(0, 7000, 7)) + gzip.compress(TEXT)
    assert inflated(body, "gzip", MIB) == TEXT[:7000] + TEXT


@pytest.mark.parametrize("cut", [1, 9, 50_000])
def test_a_body_that_ends_too_early_is_refused(cut: int):
    for encoding, body in (("gzip", gzip.compress(TEXT)), ("zstd", zstandard.compress(TEXT))):
        with pytest.raises(Refusal, match=f"not whole {encoding}"):
            inflated(body[:-cut], encoding, MIB)


@pytest.mark.parametrize("room", [0, len(TEXT) - 1, len(TEXT)])
def test_exactly_what_is_allowed_may_come_out(room: int):
    for encoding, body in (("gzip", gzip.compress(TEXT)), ("zstd", zstandard.compress(TEXT))):
        if room == len(TEXT):
            assert inflated(body, encoding, room) == TEXT
        else:
            with pytest.raises(BodyTooLarge):
                inflated(body, encoding, room)


def test_a_body_of_nothing_but_heads_is_refused_before_all_of_them_are_read():
    with pytest.raises(Refusal, match=f"more than {MAX_MEMBERS} members"):
        inflated(gzip.compress(b"") * (MAX_MEMBERS + 1), "gzip", MIB)


def test_a_small_body_that_inflates_to_a_gibibyte_never_takes_much_memory():
    compressor = zstandard.ZstdCompressor(level=1).compressobj()  # does not say how much will come out
    bomb = b"".join(compressor.compress(bytes(MIB)) for _ in range(1024)) + compressor.flush()
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            inflated(bomb, "zstd", MIB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 48 * MIB
